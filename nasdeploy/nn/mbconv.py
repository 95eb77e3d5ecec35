"""Weights and computation of MobileNet-like blocks: for each family `cover`, `slice` and `forward`.

`cover` makes the weights that serve all of the given blocks, `slice` takes from them the tensors of one block (views,
so that gradients flow back), `forward` computes the block. A supernet and an extracted network use the same three.
Widths are leading channels, smaller kernels centre crops (AlphaNet, section 4.1 and appendix B).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from nasdeploy.blocks.mbconv import MBConv, PoolHead, Stem
from nasdeploy.nn.functional import (
    ACTIVATIONS,
    BN_EPS,
    BatchNormFamily,
    Context,
    NormTensors,
    batch_norm,
    centre_crop,
    drop_connect,
    slice_matrix,
    slice_norm,
)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=BN_EPS)


class ConvTensors(NamedTuple):
    """A convolution without bias and its normalisation."""

    weight: Tensor
    norm: NormTensors


class StemWeights(nn.Module):
    """Weights that serve several stems of one kernel size."""

    def __init__(self, blocks: Sequence[Stem]) -> None:
        super().__init__()
        first, out = blocks[0], max(block.out_channels for block in blocks)
        self.conv = nn.Conv2d(first.in_channels, out, first.kernel_size, bias=False)
        self.norm = _norm(out)


class StemFamily(BatchNormFamily):
    """Stem convolution."""

    cover = StemWeights

    @staticmethod
    def slice(weights: StemWeights, block: Stem) -> ConvTensors:
        """Leading output channels."""
        out = block.out_channels
        return ConvTensors(slice_matrix(weights.conv.weight, out, block.in_channels), slice_norm(weights.norm, out))

    @staticmethod
    def forward(block: Stem, tensors: ConvTensors, x: Tensor, *, context: Context) -> Tensor:
        """`[N, 3, side, side] -> [N, out_channels, ...]`."""
        x = F.conv2d(x, tensors.weight, None, block.stride, block.kernel_size // 2)
        return ACTIVATIONS[block.activation](batch_norm(x, tensors.norm, context.statistics))


class MBConvWeights(nn.Module):
    """Weights that serve several inverted residual blocks; parts that none of them has are None."""

    def __init__(self, blocks: Sequence[MBConv]) -> None:
        super().__init__()
        in_channels = max(block.in_channels for block in blocks)
        out_channels = max(block.out_channels for block in blocks)
        mid = max(block.mid_channels for block in blocks)
        expanding = [block.mid_channels for block in blocks if block.expand_ratio != 1]
        squeezed = max(block.se_channels for block in blocks)
        projecting = any(block.in_channels != block.out_channels for block in blocks)
        self.expand = nn.Conv2d(in_channels, max(expanding), 1, bias=False) if expanding else None
        self.expand_norm = _norm(max(expanding)) if expanding else None
        self.depthwise = nn.Conv2d(mid, mid, max(block.kernel_size for block in blocks), groups=mid, bias=False)
        self.depthwise_norm = _norm(mid)
        self.reduce = nn.Conv2d(mid, squeezed, 1) if squeezed else None
        self.restore = nn.Conv2d(squeezed, mid, 1) if squeezed else None
        self.project = nn.Conv2d(mid, out_channels, 1, bias=False)
        self.project_norm = _norm(out_channels)
        nn.init.zeros_(self.project_norm.weight)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, bias=False) if projecting else None


class SqueezeTensors(NamedTuple):
    """The two convolutions of squeeze-and-excitation."""

    reduce: Tensor
    reduce_bias: Tensor
    restore: Tensor
    restore_bias: Tensor


class MBConvTensors(NamedTuple):
    """Everything that one inverted residual block computes with."""

    expand: ConvTensors | None
    depthwise: ConvTensors
    squeeze: SqueezeTensors | None
    project: ConvTensors
    shortcut: Tensor | None


class MBConvFamily(BatchNormFamily):
    """Inverted residual block with squeeze-and-excitation and a shortcut for every shape."""

    cover = MBConvWeights

    @staticmethod
    def slice(weights: MBConvWeights, block: MBConv) -> MBConvTensors:
        """Leading channels, and the centre of the depthwise kernel."""
        mid, inside, out = block.mid_channels, block.in_channels, block.out_channels
        expand = squeeze = shortcut = None
        if block.expand_ratio != 1:
            assert weights.expand is not None and weights.expand_norm is not None
            expand = ConvTensors(slice_matrix(weights.expand.weight, mid, inside), slice_norm(weights.expand_norm, mid))
        if block.se:
            assert weights.reduce is not None and weights.restore is not None
            squeeze = _slice_squeeze(weights.reduce, weights.restore, mid, block.se_channels)
        if inside != out:
            assert weights.shortcut is not None
            shortcut = slice_matrix(weights.shortcut.weight, out, inside)
        return MBConvTensors(
            expand,
            ConvTensors(
                centre_crop(weights.depthwise.weight, mid, block.kernel_size), slice_norm(weights.depthwise_norm, mid)
            ),
            squeeze,
            ConvTensors(slice_matrix(weights.project.weight, out, mid), slice_norm(weights.project_norm, out)),
            shortcut,
        )

    @staticmethod
    def forward(block: MBConv, tensors: MBConvTensors, x: Tensor, *, context: Context) -> Tensor:
        """`[N, in_channels, side, side] -> [N, out_channels, ...]`; what is dropped are whole samples of the branch.

        This drop-connect acts only where the shortcut is the input itself.
        """
        activation = ACTIVATIONS[block.activation]
        y = x
        if tensors.expand is not None:
            y = activation(batch_norm(F.conv2d(y, tensors.expand.weight), tensors.expand.norm, context.statistics))
        kernel, mid = block.kernel_size, block.mid_channels
        y = F.conv2d(y, tensors.depthwise.weight, None, block.stride, kernel // 2, 1, mid)
        y = activation(batch_norm(y, tensors.depthwise.norm, context.statistics))
        if tensors.squeeze is not None:
            y = _squeeze_and_excite(y, tensors.squeeze)
        y = batch_norm(F.conv2d(y, tensors.project.weight), tensors.project.norm, context.statistics)
        if context.drop and block.identity:
            y = drop_connect(y, context.drop)
        return y + _shortcut(block, tensors.shortcut, x)


def _slice_squeeze(reduce: nn.Conv2d, restore: nn.Conv2d, mid: int, squeezed: int) -> SqueezeTensors:
    assert reduce.bias is not None and restore.bias is not None
    return SqueezeTensors(
        slice_matrix(reduce.weight, squeezed, mid),
        reduce.bias if reduce.out_channels == squeezed else reduce.bias[:squeezed],
        slice_matrix(restore.weight, mid, squeezed),
        restore.bias if restore.out_channels == mid else restore.bias[:mid],
    )


def _squeeze_and_excite(x: Tensor, tensors: SqueezeTensors) -> Tensor:
    """Scale the channels of `[N, channels, H, W]` by a gate computed from their means."""
    gate = F.adaptive_avg_pool2d(x, 1)
    gate = F.relu(F.conv2d(gate, tensors.reduce, tensors.reduce_bias))
    return x * F.hardsigmoid(F.conv2d(gate, tensors.restore, tensors.restore_bias))


def _shortcut(block: MBConv, weight: Tensor | None, x: Tensor) -> Tensor:
    if block.stride > 1:
        x = F.avg_pool2d(x, block.stride, padding=block.side % 2)
    return x if weight is None else F.conv2d(x, weight)


class PoolHeadWeights(nn.Module):
    """Weights that serve several pooling heads of one number of classes."""

    def __init__(self, blocks: Sequence[PoolHead]) -> None:
        super().__init__()
        mid, out = max(block.mid_channels for block in blocks), max(block.out_channels for block in blocks)
        self.expand = nn.Conv2d(max(block.in_channels for block in blocks), mid, 1, bias=False)
        self.expand_norm = _norm(mid)
        self.project = nn.Conv2d(mid, out, 1, bias=False)
        self.classifier = nn.Linear(out, blocks[0].classes)


class PoolHeadTensors(NamedTuple):
    """Everything that one head computes with."""

    expand: ConvTensors
    project: Tensor
    classifier: Tensor
    classifier_bias: Tensor


class PoolHeadFamily(BatchNormFamily):
    """1x1 convolution, global average pooling, 1x1 convolution, classifier."""

    cover = PoolHeadWeights

    @staticmethod
    def slice(weights: PoolHeadWeights, block: PoolHead) -> PoolHeadTensors:
        """Leading channels."""
        mid, out = block.mid_channels, block.out_channels
        return PoolHeadTensors(
            ConvTensors(
                slice_matrix(weights.expand.weight, mid, block.in_channels), slice_norm(weights.expand_norm, mid)
            ),
            slice_matrix(weights.project.weight, out, mid),
            slice_matrix(weights.classifier.weight, block.classes, out),
            weights.classifier.bias,
        )

    @staticmethod
    def forward(block: PoolHead, tensors: PoolHeadTensors, x: Tensor, *, context: Context) -> Tensor:
        """`[N, in_channels, side, side] -> [N, classes]`; what is dropped are features before the classifier."""
        activation = ACTIVATIONS[block.activation]
        x = activation(batch_norm(F.conv2d(x, tensors.expand.weight), tensors.expand.norm, context.statistics))
        x = activation(F.conv2d(F.adaptive_avg_pool2d(x, 1), tensors.project)).flatten(1)
        if context.drop:
            x = F.dropout(x, context.drop)
        return F.linear(x, tensors.classifier, tensors.classifier_bias)
