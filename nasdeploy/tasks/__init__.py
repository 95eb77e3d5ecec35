"""Tasks: what samples, targets and scores are, for each kind of work that networks are trained for. Torch-free."""

from nasdeploy.core.errors import lookup
from nasdeploy.tasks.classification import Classification
from nasdeploy.tasks.task import Task

TASKS: dict[str, Task] = {task.name: task for task in (Classification(),)}


def task_of(name: str) -> Task:
    """Return the registered task called `name`; raises `UserError` with the nearest name."""
    return lookup("task", TASKS, name)
