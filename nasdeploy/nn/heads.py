"""Weights and computation of stem and heads. Widths are leading channels."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch.nn.functional as F
from torch import Tensor, nn

from nasdeploy.blocks.heads import ClassifierHead, PoolHead, Stem
from nasdeploy.core.space import Sharing
from nasdeploy.nn.functional import (
    ACTIVATIONS,
    BN_EPS,
    BatchNormFamily,
    Context,
    ConvTensors,
    NormTensors,
    batch_norm,
    pad_and_convolve,
    slice_matrix,
    slice_norm,
)


def _norm(channels: int, eps: float = BN_EPS) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=eps)


@runtime_checkable
class ClassifyingWeights(Protocol):
    """The weights of a block that ends in a classifier, which may learn alone or at a rate of its own."""

    classifier: nn.Linear


class StemWeights(nn.Module):
    """Weights that serve several stems of one kernel size."""

    def __init__(self, blocks: Sequence[Stem], sharing: Sharing) -> None:
        super().__init__()
        first, out = blocks[0], max(block.out_channels for block in blocks)
        self.conv = nn.Conv2d(first.in_channels, out, first.kernel_size, bias=False)
        self.norm = _norm(out, first.bn_eps)


class StemFamily(BatchNormFamily):
    """Stem convolution."""

    cover = StemWeights

    @staticmethod
    def slice(weights: StemWeights, block: Stem) -> ConvTensors:
        """Return the leading output channels."""
        out = block.out_channels
        return ConvTensors(slice_matrix(weights.conv.weight, out, block.in_channels), slice_norm(weights.norm, out))

    @staticmethod
    def forward(block: Stem, tensors: ConvTensors, x: Tensor, *, context: Context) -> Tensor:
        """`[N, 3, side, side] -> [N, out_channels, ...]`."""
        x = pad_and_convolve(x, tensors.weight, block.stride, block.margins)
        return batch_norm(x, tensors.norm, context.statistics, block.bn_eps, block.activation)


class PoolHeadWeights(nn.Module):
    """Weights that serve several pooling heads of one number of classes."""

    def __init__(self, blocks: Sequence[PoolHead], sharing: Sharing) -> None:
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
        """Return the leading channels."""
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
        x = F.conv2d(x, tensors.expand.weight)
        x = batch_norm(x, tensors.expand.norm, context.statistics, activation=block.activation)
        x = ACTIVATIONS[block.activation](F.conv2d(F.adaptive_avg_pool2d(x, 1), tensors.project)).flatten(1)
        if context.drop:
            x = F.dropout(x, context.drop)
        return F.linear(x, tensors.classifier, tensors.classifier_bias)


class ClassifierHeadWeights(nn.Module):
    """Weights that serve several heads of one number of classes and of the same layers; those they lack are None."""

    def __init__(self, blocks: Sequence[ClassifierHead], sharing: Sharing) -> None:
        super().__init__()
        first = blocks[0]
        conv, hidden = max(block.conv_channels for block in blocks), max(block.hidden_channels for block in blocks)
        pooled, features = max(block.pooled for block in blocks), max(block.features for block in blocks)
        inside = max(block.in_channels for block in blocks)
        self.conv = nn.Conv2d(inside, conv, 1, bias=False) if conv else None
        self.conv_norm = _norm(conv, first.bn_eps) if conv else None
        self.hidden = nn.Conv2d(pooled, hidden, 1, bias=first.hidden_bias) if hidden else None
        self.hidden_norm = _norm(hidden, first.bn_eps) if hidden and first.hidden_norm else None
        self.classifier = nn.Linear(features, first.classes)


class HiddenTensors(NamedTuple):
    """The layer between pooling and classifier, a 1x1 convolution."""

    weight: Tensor
    bias: Tensor | None
    norm: NormTensors | None


class ClassifierHeadTensors(NamedTuple):
    """Everything that one head computes with."""

    conv: ConvTensors | None
    hidden: HiddenTensors | None
    classifier: tuple[Tensor, Tensor]


class ClassifierHeadFamily(BatchNormFamily):
    """Optional 1x1 convolution, global average pooling, optional hidden layer, classifier."""

    cover = ClassifierHeadWeights

    @staticmethod
    def slice(weights: ClassifierHeadWeights, block: ClassifierHead) -> ClassifierHeadTensors:
        """Return the leading channels."""
        conv, inside, out = None, block.in_channels, block.conv_channels
        if weights.conv is not None and weights.conv_norm is not None:
            conv = ConvTensors(slice_matrix(weights.conv.weight, out, inside), slice_norm(weights.conv_norm, out))
        classifier = slice_matrix(weights.classifier.weight, block.classes, block.features)
        return ClassifierHeadTensors(conv, _slice_hidden(weights, block), (classifier, weights.classifier.bias))

    @staticmethod
    def forward(block: ClassifierHead, tensors: ClassifierHeadTensors, x: Tensor, *, context: Context) -> Tensor:
        """`[N, in_channels, side, side] -> [N, classes]`; what is dropped are features before the classifier."""
        if tensors.conv is not None:
            x = F.conv2d(x, tensors.conv.weight)
            x = batch_norm(x, tensors.conv.norm, context.statistics, block.bn_eps, block.activation)
        x = F.adaptive_avg_pool2d(x, 1)
        if tensors.hidden is not None:
            x = F.conv2d(x, tensors.hidden.weight, tensors.hidden.bias)
            if tensors.hidden.norm is not None:
                x = batch_norm(x, tensors.hidden.norm, context.statistics, block.bn_eps)
            x = ACTIVATIONS[block.activation](x)
        x = x.flatten(1)
        if context.drop:
            x = F.dropout(x, context.drop)
        return F.linear(x, *tensors.classifier)


def _slice_hidden(weights: ClassifierHeadWeights, block: ClassifierHead) -> HiddenTensors | None:
    if weights.hidden is None:
        return None
    hidden, bias = block.hidden_channels, weights.hidden.bias
    norm = None if weights.hidden_norm is None else slice_norm(weights.hidden_norm, hidden)
    if bias is not None and len(bias) > hidden:
        bias = bias[:hidden]
    return HiddenTensors(slice_matrix(weights.hidden.weight, hidden, block.pooled), bias, norm)
