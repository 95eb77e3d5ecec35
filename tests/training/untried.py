"""`nasdeploy` that believes a teacher without trying it, so that its faults show in a step.

python untried.py train RECIPE        (with torchrun's variables)
"""

from nasdeploy.cli.main import main
from nasdeploy.workflows import train

setattr(train, "try_teacher", lambda *given: None)  # noqa: B010 (mypy minds an assignment)
main()
