"""The weight-sharing supernet: for each slot the weights that cover every block that may stand there."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from nasdeploy.core.arch import Arch
from nasdeploy.core.plan import Block, Plan, Step
from nasdeploy.core.space import SearchSpace, Slot
from nasdeploy.nn import FAMILIES, Forward, eager
from nasdeploy.nn.functional import BATCH, Statistics
from nasdeploy.nn.graph import run
from nasdeploy.nn.rescale import rescale


class Supernet(nn.Module):
    """All sub-networks of a space in one set of weights.

    The architecture is an argument of the call, never stored. Batch normalisation always uses the batch's statistics;
    running statistics exist (mean 0, variance 1 unless loaded) but training never updates them.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        self.weights = nn.ModuleDict({slot.name: _cover(space, slot) for slot in space.slots})

    def forward(
        self,
        x: Tensor,
        arch: Arch,
        drop_rates: Mapping[str, float] | None = None,
        statistics: Statistics = BATCH,
        forward_of: Callable[[Block], Forward] = eager,
    ) -> Tensor:
        """Logits `[N, classes]` of the sub-network `arch` for images `[N, 3, S, S]` of any side.

        The images are rescaled to the architecture's resolution. `drop_rates` gives the drop probability of slots
        (`mobilenet.drop_rates`); None regularises nothing. `statistics` are the batch's, of this process or of all.
        `forward_of` gives the computation of a block, which may be compiled.
        """
        plan = self.space.plan(arch)
        rates = drop_rates or {}

        def compute(step: Step, x: Tensor) -> Tensor:
            tensors = FAMILIES[type(step.block)].slice(self.weights[step.name], step.block)
            return forward_of(step.block)(tensors, x, statistics, rates.get(step.name, 0.0))

        return run(plan.only, rescale(x, input_side(plan)), compute)


def input_side(plan: Plan) -> int:
    """Side in pixels of the square images that a plan takes."""
    return plan.only.inputs[0][1].shape[-1]


def _cover(space: SearchSpace, slot: Slot) -> nn.Module:
    blocks = list({block for block in space.blocks_of(slot) if block is not None})
    return FAMILIES[type(blocks[0])].cover(blocks)
