"""Blocks whose choices are relaxed: the largest block, with a mask on channels and taps for each that may stand there.

A width is a mask of leading channels (FBNetV2, section 3.1), a smaller kernel a mask on the border of the depthwise
weight, whose remaining taps see what the smaller kernel sees. Masks are means over the blocks with given weights: with
all weight on one block the result is that block's. Weights of the supernet are constants here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasdeploy.blocks.mbconv import MBConv, PoolHead, Stem
from nasdeploy.core.plan import Block
from nasdeploy.nn.functional import ACTIVATIONS, BN_EPS
from nasdeploy.nn.mbconv import MBConvWeights, PoolHeadWeights, StemWeights

Masks = Mapping[str, Tensor]


class MaskedFamily(Protocol):
    """How blocks of one class are computed all at once."""

    def indicators(self, weights: Any, blocks: Sequence[Any], /) -> Masks:
        """By name, `[blocks, ...]`: 1 where a block has that channel or tap."""

    def forward(self, weights: Any, block: Any, masks: Masks, x: Tensor, /) -> Tensor:
        """The output for `masks`, the means of `indicators`; `block` is any of the blocks."""


class MaskedStem:
    """Stem convolution of relaxed width."""

    def indicators(self, weights: StemWeights, blocks: Sequence[Stem]) -> Masks:
        """Of output channels."""
        return {"out": _leading(blocks, weights.conv.out_channels, lambda block: block.out_channels)}

    def forward(self, weights: StemWeights, block: Stem, masks: Masks, x: Tensor) -> Tensor:
        """`[N, 3, side, side] -> [N, largest width, ...]`."""
        y = F.conv2d(x, weights.conv.weight.detach(), None, block.stride, block.kernel_size // 2)
        return ACTIVATIONS[block.activation](_normalised(y, weights.norm)) * _channels(masks["out"])


class MaskedMBConv:
    """Inverted residual block of relaxed widths, expansion and kernel."""

    def indicators(self, weights: MBConvWeights, blocks: Sequence[MBConv]) -> Masks:
        """Of channels at each place, of taps, and of those input channels that are passed on as they are.

        `carried` are those that no expansion stands before, `identity` those of a shortcut without projection.
        """
        mid, out = weights.project.in_channels, weights.project.out_channels
        inside = max(block.in_channels for block in blocks)
        expanded = weights.expand.out_channels if weights.expand is not None else 0
        squeezed = weights.reduce.out_channels if weights.reduce is not None else 0
        return {
            "inside": _leading(blocks, inside, lambda b: b.in_channels),
            "carried": _leading(blocks, inside, lambda b: b.in_channels if b.expand_ratio == 1 else 0),
            "expanded": _leading(blocks, expanded, lambda b: 0 if b.expand_ratio == 1 else b.mid_channels),
            "mid": _leading(blocks, mid, lambda b: b.mid_channels),
            "taps": _central(blocks, weights.depthwise.kernel_size[0]),
            "squeezed": _leading(blocks, squeezed, lambda b: b.se_channels),
            "out": _leading(blocks, out, lambda b: b.out_channels),
            "identity": _leading(blocks, inside, lambda b: b.in_channels if b.in_channels == b.out_channels else 0),
            "projected": _leading(blocks, out, lambda b: 0 if b.in_channels == b.out_channels else b.out_channels),
        }

    def forward(self, weights: MBConvWeights, block: MBConv, masks: Masks, x: Tensor) -> Tensor:
        """`[N, largest input width, side, side] -> [N, largest output width, ...]`; `x` is masked already."""
        activation = ACTIVATIONS[block.activation]
        mid, kernel = weights.project.in_channels, weights.depthwise.kernel_size[0]
        y = _resized(x * _part(masks, "carried"), mid)
        if weights.expand is not None and weights.expand_norm is not None:
            expanded = activation(_normalised(_conv(x, weights.expand), weights.expand_norm))
            y = y + _resized(expanded * _channels(masks["expanded"]), mid)
        taps = weights.depthwise.weight.detach() * masks["taps"]
        y = F.conv2d(y, taps, None, block.stride, kernel // 2, 1, mid)
        y = activation(_normalised(y, weights.depthwise_norm)) * _channels(masks["mid"])
        if weights.reduce is not None and weights.restore is not None:
            gate = F.relu(_conv(F.adaptive_avg_pool2d(y, 1), weights.reduce)) * _channels(masks["squeezed"])
            y = y * F.hardsigmoid(_conv(gate, weights.restore))
        y = _normalised(_conv(y, weights.project), weights.project_norm) * _channels(masks["out"])
        return y + self._shortcut(weights, block, masks, x)

    def _shortcut(self, weights: MBConvWeights, block: MBConv, masks: Masks, x: Tensor) -> Tensor:
        if block.stride > 1:
            x = F.avg_pool2d(x, block.stride, padding=block.side % 2)
        shortcut = _resized(x * _part(masks, "identity"), weights.project.out_channels)
        if weights.shortcut is None:
            return shortcut
        return shortcut + _conv(x, weights.shortcut) * _channels(masks["projected"])


class MaskedPoolHead:
    """Pooling head of relaxed widths."""

    def indicators(self, weights: PoolHeadWeights, blocks: Sequence[PoolHead]) -> Masks:
        """Of channels before and after pooling."""
        return {
            "mid": _leading(blocks, weights.expand.out_channels, lambda block: block.mid_channels),
            "out": _leading(blocks, weights.project.out_channels, lambda block: block.out_channels),
        }

    def forward(self, weights: PoolHeadWeights, block: PoolHead, masks: Masks, x: Tensor) -> Tensor:
        """`[N, largest input width, side, side] -> [N, classes]`; `x` is masked already."""
        activation = ACTIVATIONS[block.activation]
        y = activation(_normalised(_conv(x, weights.expand), weights.expand_norm)) * _channels(masks["mid"])
        y = activation(_conv(F.adaptive_avg_pool2d(y, 1), weights.project)) * _channels(masks["out"])
        return F.linear(y.flatten(1), weights.classifier.weight.detach(), weights.classifier.bias.detach())


MASKED: Mapping[type[Block], MaskedFamily] = {Stem: MaskedStem(), MBConv: MaskedMBConv(), PoolHead: MaskedPoolHead()}
_TINY = 1e-12


def _leading(blocks: Sequence[Any], channels: int, count: Callable[[Any], int]) -> Tensor:
    """`[blocks, channels]`: 1 for as many leading channels as each block has."""
    counts = torch.tensor([count(block) for block in blocks])
    return (torch.arange(channels) < counts[:, None]).double()


def _central(blocks: Sequence[MBConv], kernel_size: int) -> Tensor:
    """`[blocks, kernel_size, kernel_size]`: 1 for the taps of each block's kernel in the centre of the largest."""
    distance = (torch.arange(kernel_size) - kernel_size // 2).abs()
    reach = torch.tensor([block.kernel_size // 2 for block in blocks])
    near = distance <= reach[:, None]
    return (near[:, :, None] & near[:, None, :]).double()


def _part(masks: Masks, name: str) -> Tensor:
    """What part of each masked input channel belongs to `name`: it was multiplied by its own mask already."""
    return _channels(masks[name] / masks["inside"].clamp(min=_TINY))


def _channels(mask: Tensor) -> Tensor:
    return mask[:, None, None]


def _resized(x: Tensor, channels: int) -> Tensor:
    """`[N, channels, H, W]`: without the last channels, or with more of them that are 0."""
    return F.pad(x, (0, 0, 0, 0, 0, channels - x.shape[1]))


def _conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 1x1 convolution."""
    return F.conv2d(x, conv.weight.detach(), None if conv.bias is None else conv.bias.detach())


def _normalised(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """By the batch's statistics."""
    return F.batch_norm(x, None, None, norm.weight.detach(), norm.bias.detach(), True, 0.0, BN_EPS)
