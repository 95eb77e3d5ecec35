"""Networks from blocks. A block family is three functions; the dictionary says which family computes a block."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from torch import Tensor, nn

from nasdeploy.blocks.mbconv import MBConv, PoolHead, Stem
from nasdeploy.core.plan import Block
from nasdeploy.nn.functional import BATCH, RUNNING, Statistics
from nasdeploy.nn.mbconv import MBConvFamily, PoolHeadFamily, StemFamily


class Family(Protocol):
    """How blocks of one class are stored, sliced and computed."""

    def cover(self, blocks: Sequence[Any], /) -> nn.Module:
        """Weights that serve all of the blocks."""

    def slice(self, weights: Any, block: Any, /) -> Any:
        """The tensors of one block: views of the weights, nested named tuples."""

    def forward(self, block: Any, tensors: Any, x: Tensor, statistics: Statistics, drop: float, /) -> Tensor:
        """The block's output `[N, *block.output]`."""


FAMILIES: Mapping[type[Block], Family] = {Stem: StemFamily(), MBConv: MBConvFamily(), PoolHead: PoolHeadFamily()}


TensorsOf = Any
"""The tensors of one block: what its family's `slice` gives."""
Forward = Callable[[TensorsOf, Tensor, Statistics, float], Tensor]
"""A family's `forward` for one block."""


def eager(block: Block) -> Forward:
    """The block's computation, operation by operation."""
    return partial(FAMILIES[type(block)].forward, block)


class StaticBlock(nn.Module):
    """One block with weights of its own shapes."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.block = block
        self.family = FAMILIES[type(block)]
        self.weights = self.family.cover([block])

    def compute(self, x: Tensor, statistics: Statistics) -> Tensor:
        """The block's output, normalised by the given statistics."""
        return self.family.forward(self.block, self.family.slice(self.weights, self.block), x, statistics, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output: batch statistics in training mode, running ones in evaluation mode."""
        return self.compute(x, BATCH if self.training else RUNNING)
