"""Block families: how blocks of each class are stored, sliced and computed. A new one is a line in `FAMILIES`."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from torch import Generator, Tensor, nn

from nasdeploy.blocks.mbconv import MBConv, PoolHead, Stem
from nasdeploy.core.plan import Block, Plan
from nasdeploy.nn.mbconv import MBConvFamily, PoolHeadFamily, StemFamily

TensorsOf = Any
"""The tensors of one block: what its family's `slice` gives."""


class Family(Protocol):
    """How blocks of one class are stored, sliced and computed. A supernet and an extracted network use the same."""

    @property
    def calibrated(self) -> bool:
        """Whether blocks normalise by running statistics, which an extracted network has to find on batches."""

    def cover(self, blocks: Sequence[Any], /) -> nn.Module:
        """Make weights that serve all of the blocks."""

    def slice(self, weights: Any, block: Any, /) -> TensorsOf:
        """Return the tensors of one block, taken from the weights: nested named tuples."""

    @property
    def forward(self) -> Callable[..., Tensor]:
        """The computation `forward(block, tensors, *inputs, context=...)`, giving `[N, *block.output.shape]`.

        The inputs are in the order of `block.inputs`; the context is a `nasdeploy.nn.functional.Context`.
        """

    def randomise(self, weights: Any, draw: Generator, /) -> None:
        """Give normalisations the numbers of a trained network's: a runtime may fold fresh ones away."""


FAMILIES: dict[type[Block], Family] = {Stem: StemFamily(), MBConv: MBConvFamily(), PoolHead: PoolHeadFamily()}
"""The family of each class of blocks."""

Forward = Callable[..., Tensor]
"""A family's `forward` for one block: `forward(tensors, *inputs, context=...)`."""


def eager(block: Block) -> Forward:
    """Return the block's computation, operation by operation."""
    return partial(FAMILIES[type(block)].forward, block)


def cover(slot: str, own: Sequence[Block], sharing: Sequence[Block] = ()) -> nn.Module:
    """Make the weights of a slot, which serve its own blocks, and those of other slots that share them.

    Its own blocks are of one class, whose family makes the weights; a sharing block of another class takes what it
    finds there. Raises `ValueError` for a slot whose own blocks are of several classes, or of one without a family.
    """
    kinds = list(dict.fromkeys(type(block) for block in own))
    if len(kinds) != 1:
        names = ", ".join(kind.__name__ for kind in kinds) or "none"
        raise ValueError(f"slot {slot}: its blocks have one set of weights, so they are of one class; found {names}")
    if kinds[0] not in FAMILIES:
        raise ValueError(f"slot {slot}: no family computes {kinds[0].__name__}; add one to nasdeploy.nn.FAMILIES")
    return FAMILIES[kinds[0]].cover([*own, *(block for block in sharing if type(block) is kinds[0])])


def needs_calibration(plan: Plan) -> bool:
    """Return whether a network has running statistics, which have to be found on batches before it is evaluated."""
    return any(FAMILIES[type(step.block)].calibrated for step in plan)
