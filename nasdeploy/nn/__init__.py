"""Block families: how blocks of each class are stored, sliced and computed. A new one is a line in `FAMILIES`."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from torch import Generator, Tensor, nn

from nasdeploy.blocks.convolutions import ConvBlock, FusedInvertedResidual
from nasdeploy.blocks.heads import ClassifierHead, PoolHead, Stem
from nasdeploy.blocks.inverted_residual import InvertedResidual, MBConv
from nasdeploy.blocks.residual import BasicBlock, Bottleneck, PoolingStem
from nasdeploy.blocks.universal_residual import UniversalInvertedResidual
from nasdeploy.core.plan import Block, Plan
from nasdeploy.core.space import Sharing
from nasdeploy.nn.convolutions import ConvBlockFamily, FusedInvertedResidualFamily
from nasdeploy.nn.functional import Middle, dense, each_tensor
from nasdeploy.nn.heads import ClassifierHeadFamily, PoolHeadFamily, StemFamily
from nasdeploy.nn.inverted_residual import InvertedResidualFamily
from nasdeploy.nn.residual import BasicBlockFamily, BottleneckFamily, PoolingStemFamily
from nasdeploy.nn.universal_residual import UniversalInvertedResidualFamily

TensorsOf = Any
"""The tensors of one block: what its family's `slice` gives, nested tuples."""


class Family(Protocol):
    """How blocks of one class are stored, sliced and computed. A supernet and an extracted network use the same."""

    @property
    def calibrated(self) -> bool:
        """Whether blocks normalise by running statistics, which an extracted network has to find on batches."""

    @property
    def rules(self) -> tuple[type[Sharing], ...]:
        """The sharing rules that the family can follow."""

    def cover(self, blocks: Sequence[Any], sharing: Any, /) -> nn.Module:
        """Make weights that serve all of the blocks, and hold what the sharing rule needs beside them."""

    def slice(self, weights: Any, block: Any, /) -> TensorsOf:
        """Return the tensors of one block, nested tuples: views of the weights, or computed from them.

        Views may be scattered in the weights; whoever computes with them makes them dense (`tensors_of`).
        """

    @property
    def forward(self) -> Callable[..., Tensor]:
        """The computation `forward(block, tensors, *inputs, context=...)`, giving `[N, *block.output.shape]`.

        The inputs are in the order of `block.inputs`; the context is a `nasdeploy.nn.functional.Context`.
        """

    def middles(self, weights: Any, /) -> Sequence[Middle]:
        """Return the sets of channels inside the blocks that may stand in any order, each sorted by itself; often none.

        Narrower blocks take the leading ones (`nasdeploy.supernet.importance` sorts them). Channels that any of the
        blocks takes from its input or hands on belong to no set.
        """

    def randomise(self, weights: Any, draw: Generator, /) -> None:
        """Give normalisations the numbers of a trained network's: a runtime may fold fresh ones away."""


FAMILIES: dict[type[Block], Family] = {
    Stem: StemFamily(),
    InvertedResidual: InvertedResidualFamily(),
    MBConv: InvertedResidualFamily(),
    FusedInvertedResidual: FusedInvertedResidualFamily(),
    UniversalInvertedResidual: UniversalInvertedResidualFamily(),
    ConvBlock: ConvBlockFamily(),
    PoolHead: PoolHeadFamily(),
    ClassifierHead: ClassifierHeadFamily(),
    PoolingStem: PoolingStemFamily(),
    BasicBlock: BasicBlockFamily(),
    Bottleneck: BottleneckFamily(),
}
"""The family of each class of blocks."""

_LEADING = Sharing()

Forward = Callable[..., Tensor]
"""A family's `forward` for one block: `forward(tensors, *inputs, context=...)`."""


def eager(block: Block) -> Forward:
    """Return the block's computation, operation by operation."""
    return partial(FAMILIES[type(block)].forward, block)


def tensors_of(weights: nn.Module, block: Block) -> TensorsOf:
    """Return what a block computes with: its slices of the weights, copied where they are scattered in larger ones."""
    return each_tensor(dense, FAMILIES[type(block)].slice(weights, block))


def cover(slot: str, own: Sequence[Block], others: Sequence[Block] = (), rule: Sharing = _LEADING) -> nn.Module:
    """Make the weights of a slot, which serve its own blocks, and those of other slots that share them.

    Its own blocks are of one class, whose family makes the weights; one of another class takes what it finds there.
    `rule` is how they share. Raises `ValueError` for a slot whose own blocks are of several classes, or of one without
    a family, or with one that cannot follow the rule.
    """
    kinds = list(dict.fromkeys(type(block) for block in own))
    if len(kinds) != 1:
        names = ", ".join(kind.__name__ for kind in kinds) or "none"
        raise ValueError(f"slot {slot}: its blocks have one set of weights, so they are of one class; found {names}")
    if kinds[0] not in FAMILIES:
        raise ValueError(f"slot {slot}: no family computes {kinds[0].__name__}; add one to nasdeploy.nn.FAMILIES")
    family = FAMILIES[kinds[0]]
    if type(rule) not in family.rules:
        raise ValueError(f"slot {slot}: {kinds[0].__name__} blocks cannot inherit by {rule}")
    return family.cover([*own, *(block for block in others if type(block) is kinds[0])], rule)


def needs_calibration(plan: Plan) -> bool:
    """Return whether a network has running statistics, which have to be found on batches before it is evaluated."""
    return any(FAMILIES[type(step.block)].calibrated for step in plan)
