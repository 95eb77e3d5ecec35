"""A static network: a plan with weights."""

from torch import Tensor, nn

from nasdeploy.core.plan import Plan, Step
from nasdeploy.nn import StaticBlock
from nasdeploy.nn.functional import BATCH, RUNNING, Statistics
from nasdeploy.nn.graph import run


class Network(nn.Module):
    """The network of a plan, as an ordinary module: `[N, 3, side, side] -> [N, classes]`.

    In training mode batch normalisation uses the batch's statistics and leaves the running ones alone (as a supernet
    does); in evaluation mode it uses the running ones, which `calibrate` sets.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.blocks = nn.ModuleDict({step.name: StaticBlock(step.block) for step in plan.steps})

    def block(self, name: str) -> StaticBlock:
        """The module of the step called `name`."""
        block = self.blocks[name]
        assert isinstance(block, StaticBlock)
        return block

    def compute(self, x: Tensor, statistics: Statistics) -> Tensor:
        """Logits, normalised by the given statistics."""

        def compute(step: Step, x: Tensor) -> Tensor:
            return self.block(step.name).compute(x, statistics)

        return run(self.plan.only, x, compute)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[N, classes]` of images `[N, 3, side, side]` at the plan's input side."""
        return self.compute(x, BATCH if self.training else RUNNING)
