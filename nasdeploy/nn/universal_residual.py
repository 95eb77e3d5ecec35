"""Weights and computation of universal inverted residual blocks: leading middle channels, central taps of kernels."""

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from nasdeploy.blocks.universal_residual import UniversalInvertedResidual
from nasdeploy.core.space import Sharing
from nasdeploy.nn.functional import (
    BatchNormFamily,
    Context,
    ConvTensors,
    Middle,
    batch_norm,
    centre_crop,
    norm_entries,
    pad_and_convolve,
    project,
    slice_matrix,
    slice_norm,
)


def _depthwise(channels: int, kernel_size: int) -> nn.Conv2d | None:
    return nn.Conv2d(channels, channels, kernel_size, groups=channels, bias=False) if kernel_size else None


class UniversalInvertedResidualWeights(nn.Module):
    """Weights that serve several blocks of equal outer channels; depthwise convolutions that they lack are None."""

    def __init__(self, blocks: Sequence[UniversalInvertedResidual], sharing: Sharing) -> None:
        super().__init__()
        first, mid = blocks[0], max(block.mid_channels for block in blocks)
        inside, out, eps = first.in_channels, first.out_channels, first.bn_eps
        self.start = _depthwise(inside, max(block.start_kernel for block in blocks))
        self.start_norm = nn.BatchNorm2d(inside, eps=eps) if self.start is not None else None
        self.expand = nn.Conv2d(inside, mid, 1, bias=False)
        self.expand_norm = nn.BatchNorm2d(mid, eps=eps)
        self.depthwise = _depthwise(mid, max(block.middle_kernel for block in blocks))
        self.depthwise_norm = nn.BatchNorm2d(mid, eps=eps) if self.depthwise is not None else None
        self.project = nn.Conv2d(mid, out, 1, bias=False)
        self.project_norm = nn.BatchNorm2d(out, eps=eps)


class UniversalInvertedResidualTensors(NamedTuple):
    """Everything that one universal inverted residual block computes with."""

    start: ConvTensors | None
    expand: ConvTensors
    depthwise: ConvTensors | None
    project: ConvTensors


class UniversalInvertedResidualFamily(BatchNormFamily):
    """Depthwise convolutions before and after an expansion, projection."""

    cover = UniversalInvertedResidualWeights

    @staticmethod
    def slice(
        weights: UniversalInvertedResidualWeights, block: UniversalInvertedResidual
    ) -> UniversalInvertedResidualTensors:
        """Return leading middle channels and central taps."""
        inside, mid, out, start, depthwise = block.in_channels, block.mid_channels, block.out_channels, None, None
        if weights.start is not None and weights.start_norm is not None:
            taps = centre_crop(weights.start.weight, inside, block.start_kernel)
            start = ConvTensors(taps, slice_norm(weights.start_norm, inside))
        if weights.depthwise is not None and weights.depthwise_norm is not None:
            taps = centre_crop(weights.depthwise.weight, mid, block.middle_kernel)
            depthwise = ConvTensors(taps, slice_norm(weights.depthwise_norm, mid))
        return UniversalInvertedResidualTensors(
            start,
            ConvTensors(slice_matrix(weights.expand.weight, mid, inside), slice_norm(weights.expand_norm, mid)),
            depthwise,
            ConvTensors(slice_matrix(weights.project.weight, out, mid), slice_norm(weights.project_norm, out)),
        )

    @staticmethod
    def middles(weights: UniversalInvertedResidualWeights) -> tuple[Middle, ...]:
        """Return the channels between expansion and projection."""
        tensors, last = [(weights.expand.weight, 0), *norm_entries(weights.expand_norm)], weights.expand_norm
        if weights.depthwise is not None and weights.depthwise_norm is not None:
            last = weights.depthwise_norm
            tensors += [(weights.depthwise.weight, 0), *norm_entries(last)]
        projection = weights.project.weight
        return (Middle((*tensors, (projection, 1)), projection, last.weight),)

    @staticmethod
    def forward(
        block: UniversalInvertedResidual, tensors: UniversalInvertedResidualTensors, x: Tensor, *, context: Context
    ) -> Tensor:
        """`[N, in_channels, side, side] -> [N, out_channels, ...]`; what is dropped beside a shortcut are samples."""
        activation, statistics, eps = block.activation, context.statistics, block.bn_eps
        first, second = block.strides
        y = x
        if tensors.start is not None:
            y = pad_and_convolve(y, tensors.start.weight, first, block.start_margins, block.in_channels)
            y = batch_norm(y, tensors.start.norm, statistics, eps)
        y = batch_norm(F.conv2d(y, tensors.expand.weight), tensors.expand.norm, statistics, eps, activation)
        if tensors.depthwise is not None:
            y = pad_and_convolve(y, tensors.depthwise.weight, second, block.middle_margins, block.mid_channels)
            y = batch_norm(y, tensors.depthwise.norm, statistics, eps, activation)
        return project(y, tensors.project, x if block.residual else None, context, eps)
