"""Running a plan: each step's block on the outputs of the steps that it takes."""

from collections.abc import Callable

from torch import Tensor

from nasdeploy.core.plan import Plan, Step


def run(plan: Plan, x: Tensor, compute: Callable[[Step, Tensor], Tensor]) -> Tensor:
    """The output of a plan of one input and one output, by computing its steps in order."""
    values = {plan.inputs[0][0]: x}
    for step in plan.steps:
        (source,) = step.takes
        values[step.name] = compute(step, values[source])
    return values[plan.outputs[0]]
