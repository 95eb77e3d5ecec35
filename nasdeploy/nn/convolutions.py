"""Weights and computation of blocks whose spatial convolution mixes channels.

Middle channels are leading ones, smaller kernels the central taps.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from nasdeploy.blocks.convolutions import ConvBlock, FusedInvertedResidual
from nasdeploy.core.space import Sharing
from nasdeploy.nn.functional import (
    BatchNormFamily,
    Context,
    ConvTensors,
    Middle,
    batch_norm,
    centre_crop,
    drop_connect,
    norm_entries,
    pad_and_convolve,
    project,
    slice_matrix,
    slice_norm,
)
from nasdeploy.nn.inverted_residual import SqueezeTensors, slice_squeeze, squeeze_and_excite


class ConvBlockWeights(nn.Module):
    """Weights of convolutions of equal channels and several kernels."""

    def __init__(self, blocks: Sequence[ConvBlock], sharing: Sharing) -> None:
        super().__init__()
        first, kernel = blocks[0], max(block.kernel_size for block in blocks)
        self.conv = nn.Conv2d(first.in_channels, first.out_channels, kernel, bias=False)
        self.norm = nn.BatchNorm2d(first.out_channels, eps=first.bn_eps)


class ConvBlockFamily(BatchNormFamily):
    """Convolution with normalisation and activation."""

    cover = ConvBlockWeights

    @staticmethod
    def slice(weights: ConvBlockWeights, block: ConvBlock) -> ConvTensors:
        """Return the central taps."""
        weight = centre_crop(weights.conv.weight, block.out_channels, block.kernel_size)
        return ConvTensors(weight, slice_norm(weights.norm, block.out_channels))

    @staticmethod
    def forward(block: ConvBlock, tensors: ConvTensors, x: Tensor, *, context: Context) -> Tensor:
        """`[N, in_channels, side, side] -> [N, out_channels, ...]`; what is dropped beside a shortcut are samples."""
        y = pad_and_convolve(x, tensors.weight, block.stride, block.margins)
        y = batch_norm(y, tensors.norm, context.statistics, block.bn_eps, block.activation)
        return drop_connect(y, context.drop) + x if block.residual else y


class FusedInvertedResidualWeights(nn.Module):
    """Weights that serve several fused inverted residual blocks of equal outer channels."""

    def __init__(self, blocks: Sequence[FusedInvertedResidual], sharing: Sharing) -> None:
        super().__init__()
        first, kernel = blocks[0], max(block.kernel_size for block in blocks)
        mid = max(block.mid_channels for block in blocks)
        squeezed = max(block.se_channels for block in blocks)
        self.expand = nn.Conv2d(first.in_channels, mid, kernel, bias=False)
        self.expand_norm = nn.BatchNorm2d(mid, eps=first.bn_eps)
        self.reduce = nn.Conv2d(mid, squeezed, 1) if squeezed else None
        self.restore = nn.Conv2d(squeezed, mid, 1) if squeezed else None
        self.project = nn.Conv2d(mid, first.out_channels, 1, bias=False)
        self.project_norm = nn.BatchNorm2d(first.out_channels, eps=first.bn_eps)


class FusedInvertedResidualTensors(NamedTuple):
    """Everything that one fused inverted residual block computes with."""

    expand: ConvTensors
    squeeze: SqueezeTensors | None
    project: ConvTensors


class FusedInvertedResidualFamily(BatchNormFamily):
    """Expanding convolution, squeeze-and-excitation and projection."""

    cover = FusedInvertedResidualWeights

    @staticmethod
    def slice(weights: FusedInvertedResidualWeights, block: FusedInvertedResidual) -> FusedInvertedResidualTensors:
        """Return leading middle channels and central taps."""
        mid, squeeze = block.mid_channels, None
        if block.se_channels:
            assert weights.reduce is not None and weights.restore is not None
            squeeze = slice_squeeze(weights.reduce, weights.restore, mid, block.se_channels)
        expand = centre_crop(weights.expand.weight, mid, block.kernel_size)
        project = slice_matrix(weights.project.weight, block.out_channels, mid)
        return FusedInvertedResidualTensors(
            ConvTensors(expand, slice_norm(weights.expand_norm, mid)),
            squeeze,
            ConvTensors(project, slice_norm(weights.project_norm, block.out_channels)),
        )

    @staticmethod
    def middles(weights: FusedInvertedResidualWeights) -> tuple[Middle, ...]:
        """Return the channels between expansion and projection."""
        squeeze: tuple[tuple[Tensor, int], ...] = ()
        if weights.reduce is not None and weights.restore is not None:
            assert weights.restore.bias is not None
            squeeze = (weights.reduce.weight, 1), (weights.restore.weight, 0), (weights.restore.bias, 0)
        expand, norm, projection = weights.expand.weight, weights.expand_norm, weights.project.weight
        return (Middle(((expand, 0), *norm_entries(norm), *squeeze, (projection, 1)), projection, norm.weight),)

    @staticmethod
    def forward(
        block: FusedInvertedResidual, tensors: FusedInvertedResidualTensors, x: Tensor, *, context: Context
    ) -> Tensor:
        """`[N, in_channels, side, side] -> [N, out_channels, ...]`; what is dropped beside a shortcut are samples."""
        statistics, eps = context.statistics, block.bn_eps
        y = pad_and_convolve(x, tensors.expand.weight, block.stride, block.margins)
        y = batch_norm(y, tensors.expand.norm, statistics, eps, block.activation)
        if tensors.squeeze is not None:
            y = squeeze_and_excite(block, y, tensors.squeeze)
        return project(y, tensors.project, x if block.residual else None, context, eps)
