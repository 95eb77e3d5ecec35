"""Weights and computation of the blocks of ResNets. Middle widths are leading channels, in whole groups."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from nasdeploy.blocks.residual import KERNEL, BasicBlock, Bottleneck, PoolingStem
from nasdeploy.core.space import Sharing
from nasdeploy.nn.functional import (
    ACTIVATIONS,
    BatchNormFamily,
    Context,
    ConvTensors,
    Middle,
    batch_norm,
    drop_connect,
    norm_entries,
    slice_matrix,
    slice_norm,
)
from nasdeploy.nn.inverted_residual import SqueezeTensors, slice_squeeze, squeeze_and_excite

_PADDING = KERNEL // 2


def _conv(inside: int, outside: int, kernel_size: int) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, kernel_size, bias=False)


def _leading(conv: nn.Conv2d, norm: nn.BatchNorm2d, outside: int, inside: int) -> ConvTensors:
    return ConvTensors(slice_matrix(conv.weight, outside, inside), slice_norm(norm, outside))


class PoolingStemWeights(nn.Module):
    """Weights of stems that differ in the side of their image alone."""

    def __init__(self, blocks: Sequence[PoolingStem], sharing: Sharing) -> None:
        super().__init__()
        first = blocks[0]
        self.convs = nn.ModuleList(_conv(a, b, first.kernel_size) for a, b in pairwise(first.widths))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, eps=first.bn_eps) for width in first.widths[1:])
        convolves, out = first.pooling == "convolution", first.out_channels
        self.pool = _conv(out, out, KERNEL) if convolves else None
        self.pool_norm = nn.BatchNorm2d(out, eps=first.bn_eps) if convolves else None


class PoolingStemTensors(NamedTuple):
    """Everything that one stem computes with."""

    convs: tuple[ConvTensors, ...]
    pool: ConvTensors | None


class PoolingStemFamily(BatchNormFamily):
    """One convolution or three, and pooling."""

    cover = PoolingStemWeights

    @staticmethod
    def slice(weights: PoolingStemWeights, block: PoolingStem) -> PoolingStemTensors:
        """Return the weights as they are."""
        layers: Any = zip(weights.convs, weights.norms, pairwise(block.widths), strict=True)
        convs = tuple(_leading(conv, norm, outside, inside) for conv, norm, (inside, outside) in layers)
        pool, norm, out = weights.pool, weights.pool_norm, block.out_channels
        return PoolingStemTensors(convs, None if pool is None or norm is None else _leading(pool, norm, out, out))

    @staticmethod
    def forward(block: PoolingStem, tensors: PoolingStemTensors, x: Tensor, *, context: Context) -> Tensor:
        """`[N, in_channels, side, side] -> [N, out_channels, side / 4, side / 4]`."""
        activation, statistics, stride = block.activation, context.statistics, 2
        for conv in tensors.convs:
            x = F.conv2d(x, conv.weight, None, stride, block.kernel_size // 2)
            x, stride = batch_norm(x, conv.norm, statistics, block.bn_eps, activation), 1
        if tensors.pool is None:
            return F.max_pool2d(x, KERNEL, 2, _PADDING)
        x = F.conv2d(x, tensors.pool.weight, None, 2, _PADDING)
        return batch_norm(x, tensors.pool.norm, statistics, block.bn_eps, activation)


class _ResidualWeights(nn.Module):
    """What the weights of both kinds of blocks hold beside the branch; parts that they lack are None."""

    def __init__(self, block: BasicBlock | Bottleneck) -> None:
        super().__init__()
        inside, out, se = block.in_channels, block.out_channels, block.se_channels
        self.reduce = nn.Conv2d(out, se, 1) if se else None
        self.restore = nn.Conv2d(se, out, 1) if se else None
        self.shortcut = None if block.identity else _conv(inside, out, 1)
        self.shortcut_norm = None if block.identity else nn.BatchNorm2d(out, eps=block.bn_eps)


class _EndTensors(NamedTuple):
    """What ends both kinds of blocks."""

    squeeze: SqueezeTensors | None
    shortcut: ConvTensors | None


def _end(weights: _ResidualWeights, block: BasicBlock | Bottleneck) -> _EndTensors:
    squeeze = shortcut = None
    if weights.reduce is not None and weights.restore is not None:
        squeeze = slice_squeeze(weights.reduce, weights.restore, block.out_channels, block.se_channels)
    if weights.shortcut is not None and weights.shortcut_norm is not None:
        shortcut = _leading(weights.shortcut, weights.shortcut_norm, block.out_channels, block.in_channels)
    return _EndTensors(squeeze, shortcut)


def _finish(block: BasicBlock | Bottleneck, end: _EndTensors, y: Tensor, x: Tensor, context: Context) -> Tensor:
    """Return the block's output from its branch's and its input."""
    if end.squeeze is not None:
        y = squeeze_and_excite(block, y, end.squeeze)
    if context.drop and block.identity:
        y = drop_connect(y, context.drop)
    if end.shortcut is not None:
        stride = block.stride
        if block.projection == "average" and stride > 1:
            # The last mean of an odd side is that of what is there.
            x, stride = F.avg_pool2d(x, stride, ceil_mode=block.side % stride > 0, count_include_pad=False), 1
        x = F.conv2d(x, end.shortcut.weight, None, stride)
        x = batch_norm(x, end.shortcut.norm, context.statistics, block.bn_eps)
    return ACTIVATIONS[block.activation](y + x)


class BasicBlockWeights(_ResidualWeights):
    """Weights that serve several blocks which differ in their middle channels and sides."""

    def __init__(self, blocks: Sequence[BasicBlock], sharing: Sharing) -> None:
        super().__init__(blocks[0])
        first, mid = blocks[0], max(block.mid_channels for block in blocks)
        norm = partial(nn.BatchNorm2d, eps=first.bn_eps)
        self.conv1, self.conv1_norm = _conv(first.in_channels, mid, KERNEL), norm(mid)
        self.conv2, self.conv2_norm = _conv(mid, first.out_channels, KERNEL), norm(first.out_channels)


class BasicBlockTensors(NamedTuple):
    """Everything that one block of two convolutions computes with."""

    conv1: ConvTensors
    conv2: ConvTensors
    end: _EndTensors


class BasicBlockFamily(BatchNormFamily):
    """Two convolutions 3x3 and a shortcut."""

    cover = BasicBlockWeights

    @staticmethod
    def slice(weights: BasicBlockWeights, block: BasicBlock) -> BasicBlockTensors:
        """Return the leading middle channels."""
        mid = block.mid_channels
        return BasicBlockTensors(
            _leading(weights.conv1, weights.conv1_norm, mid, block.in_channels),
            _leading(weights.conv2, weights.conv2_norm, block.out_channels, mid),
            _end(weights, block),
        )

    @staticmethod
    def middles(weights: BasicBlockWeights) -> tuple[Middle, ...]:
        """Return the channels between the convolutions."""
        return (_middle(weights.conv1, weights.conv1_norm, weights.conv2),)

    @staticmethod
    def forward(block: BasicBlock, tensors: BasicBlockTensors, x: Tensor, *, context: Context) -> Tensor:
        """`[N, in_channels, side, side] -> [N, out_channels, ...]`; what is dropped are whole samples of the branch."""
        activation, statistics, eps = block.activation, context.statistics, block.bn_eps
        y = F.conv2d(x, tensors.conv1.weight, None, block.stride, _PADDING)
        y = batch_norm(y, tensors.conv1.norm, statistics, eps, activation)
        y = F.conv2d(y, tensors.conv2.weight, None, 1, _PADDING)
        return _finish(block, tensors.end, batch_norm(y, tensors.conv2.norm, statistics, eps), x, context)


class BottleneckWeights(_ResidualWeights):
    """Weights that serve several bottlenecks which differ in their middle channels and sides."""

    def __init__(self, blocks: Sequence[Bottleneck], sharing: Sharing) -> None:
        super().__init__(blocks[0])
        first = max(blocks, key=lambda block: block.mid_channels)
        mid, out, norm = first.mid_channels, first.out_channels, partial(nn.BatchNorm2d, eps=first.bn_eps)
        self.conv1, self.conv1_norm = _conv(first.in_channels, mid, 1), norm(mid)
        self.conv2, self.conv2_norm = nn.Conv2d(mid, mid, KERNEL, groups=first.groups, bias=False), norm(mid)
        self.conv3, self.conv3_norm = _conv(mid, out, 1), norm(out)


class BottleneckTensors(NamedTuple):
    """Everything that one bottleneck computes with."""

    conv1: ConvTensors
    conv2: ConvTensors
    conv3: ConvTensors
    end: _EndTensors


class BottleneckFamily(BatchNormFamily):
    """Convolutions 1x1, 3x3 and 1x1, and a shortcut."""

    cover = BottleneckWeights

    @staticmethod
    def slice(weights: BottleneckWeights, block: Bottleneck) -> BottleneckTensors:
        """Return the leading middle channels, or groups of them."""
        mid = block.mid_channels
        return BottleneckTensors(
            _leading(weights.conv1, weights.conv1_norm, mid, block.in_channels),
            _leading(weights.conv2, weights.conv2_norm, mid, block.group_width or mid),
            _leading(weights.conv3, weights.conv3_norm, block.out_channels, mid),
            _end(weights, block),
        )

    @staticmethod
    def middles(weights: BottleneckWeights) -> tuple[Middle, ...]:
        """Return the channels before and after the 3x3 convolution; where it has groups, these stay together."""
        if weights.conv2.groups > 1:
            whole = ((weights.conv1.weight, 0), *norm_entries(weights.conv1_norm), (weights.conv2.weight, 0))
            last = _middle(weights.conv2, weights.conv2_norm, weights.conv3)
            return (last._replace(tensors=(*whole, *last.tensors[1:]), width=weights.conv2.weight.shape[1]),)
        return (
            _middle(weights.conv1, weights.conv1_norm, weights.conv2),
            _middle(weights.conv2, weights.conv2_norm, weights.conv3),
        )

    @staticmethod
    def forward(block: Bottleneck, tensors: BottleneckTensors, x: Tensor, *, context: Context) -> Tensor:
        """`[N, in_channels, side, side] -> [N, out_channels, ...]`; what is dropped are whole samples of the branch."""
        activation, statistics, eps = block.activation, context.statistics, block.bn_eps
        y = F.conv2d(x, tensors.conv1.weight)
        y = batch_norm(y, tensors.conv1.norm, statistics, eps, activation)
        y = F.conv2d(y, tensors.conv2.weight, None, block.stride, _PADDING, 1, block.groups)
        y = batch_norm(y, tensors.conv2.norm, statistics, eps, activation)
        y = F.conv2d(y, tensors.conv3.weight)
        return _finish(block, tensors.end, batch_norm(y, tensors.conv3.norm, statistics, eps), x, context)


def _middle(before: nn.Conv2d, norm: nn.BatchNorm2d, after: nn.Conv2d) -> Middle:
    """Return the channels between two convolutions."""
    tensors = ((before.weight, 0), *norm_entries(norm), (after.weight, 1))
    return Middle(tensors, after.weight, norm.weight)
