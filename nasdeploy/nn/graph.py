"""Running a part of a plan: each step's block on the outputs of the steps that it takes."""

from collections.abc import Callable

from torch import Tensor

from nasdeploy.core.plan import Part, Step


def run(part: Part, x: Tensor, compute: Callable[[Step, Tensor], Tensor]) -> Tensor:
    """The output of a part of one input and one output, by computing its steps in order."""
    values = {part.inputs[0][0]: x}
    for step in part.steps:
        (source,) = step.takes
        values[step.name] = compute(step, values[source])
    return values[part.outputs[0]]
