"""Weights and computation of inverted residual blocks, those of AlphaNet among them.

Widths are leading channels. Smaller kernels are what the slot's sharing rule says: the central taps of the largest one
(AlphaNet, section 4.1 and appendix B), or these times a learned matrix (once-for-all, section 3.3).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from operator import attrgetter
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasdeploy.blocks.inverted_residual import InvertedResidual, KernelTransform
from nasdeploy.core.space import Sharing
from nasdeploy.nn import kernels
from nasdeploy.nn.functional import (
    ACTIVATIONS,
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

GATES: dict[str, Callable[[Tensor], Tensor]] = {"hardsigmoid": F.hardsigmoid, "sigmoid": torch.sigmoid}


class InvertedResidualWeights(nn.Module):
    """Weights that serve several inverted residual blocks; parts that none of them has are None.

    `transforms` holds a square matrix for each step from a kernel to the next smaller one, by its size in taps; it is
    None where smaller kernels are centres. `residual` says whether all of the blocks have a shortcut, `expanding`
    whether all of them have an expansion, `squeezing` whether they squeeze to different numbers of channels.
    """

    def __init__(self, blocks: Sequence[InvertedResidual], sharing: Sharing) -> None:
        super().__init__()
        in_channels = max(block.in_channels for block in blocks)
        out_channels = max(block.out_channels for block in blocks)
        mid = max(block.mid_channels for block in blocks)
        expanding = [block.mid_channels for block in blocks if block.expands]
        squeezed = max(block.se_channels for block in blocks)
        kernels = sorted({block.kernel_size for block in blocks})
        norm = partial(nn.BatchNorm2d, eps=blocks[0].bn_eps)
        self.expand = nn.Conv2d(in_channels, max(expanding), 1, bias=False) if expanding else None
        self.expand_norm = norm(max(expanding)) if expanding else None
        self.depthwise = nn.Conv2d(mid, mid, kernels[-1], groups=mid, bias=False)
        self.depthwise_norm = norm(mid)
        self.reduce = nn.Conv2d(mid, squeezed, 1) if squeezed else None
        self.restore = nn.Conv2d(squeezed, mid, 1) if squeezed else None
        self.project = nn.Conv2d(mid, out_channels, 1, bias=False)
        self.project_norm = norm(out_channels)
        projecting = any(block.projects_shortcut for block in blocks)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, bias=False) if projecting else None
        self.transforms = _identities(kernels) if isinstance(sharing, KernelTransform) else None
        self.residual = all(block.residual for block in blocks)
        self.expanding = all(block.expands for block in blocks)
        self.squeezing = len({block.se_channels for block in blocks}) > 1


def _identities(kernels: Sequence[int]) -> nn.ParameterDict:
    """Matrices with which a smaller kernel is the centre of the next larger one, until they have learned otherwise."""
    return nn.ParameterDict({_name(small, large): torch.eye(small**2) for small, large in pairwise(kernels)})


def _name(small: int, large: int) -> str:
    return f"{large}to{small}"


def zero_last_scales(module: nn.Module) -> None:
    """Set the last scale of each inverted residual in `module` to zero, if all of its blocks have a shortcut.

    A training that begins like this begins with the shortcuts alone (Goyal et al. 2017, section 5.1).
    """
    for weights in module.modules():
        if isinstance(weights, InvertedResidualWeights) and weights.residual:
            nn.init.zeros_(weights.project_norm.weight)


class Squeezing(Protocol):
    """What a block with squeeze-and-excitation says of it."""

    @property
    def gate(self) -> str:
        """The name of what makes the factors."""

    @property
    def se_activation(self) -> str:
        """The name of the activation between the two convolutions."""


class SqueezeTensors(NamedTuple):
    """The two convolutions of squeeze-and-excitation."""

    reduce: Tensor
    reduce_bias: Tensor
    restore: Tensor
    restore_bias: Tensor


class InvertedResidualTensors(NamedTuple):
    """Everything that one inverted residual block computes with."""

    expand: ConvTensors | None
    depthwise: ConvTensors
    squeeze: SqueezeTensors | None
    project: ConvTensors
    shortcut: Tensor | None


class InvertedResidualFamily(BatchNormFamily):
    """Inverted residual blocks with squeeze-and-excitation and any kind of shortcut."""

    cover = InvertedResidualWeights
    rules = (Sharing, KernelTransform)

    @staticmethod
    def slice(weights: InvertedResidualWeights, block: InvertedResidual) -> InvertedResidualTensors:
        """Return leading channels, and the depthwise kernel that the sharing rule gives."""
        mid, inside, out = block.mid_channels, block.in_channels, block.out_channels
        expand = squeeze = shortcut = None
        if block.expands:
            assert weights.expand is not None and weights.expand_norm is not None
            expand = ConvTensors(slice_matrix(weights.expand.weight, mid, inside), slice_norm(weights.expand_norm, mid))
        if block.se_channels:
            assert weights.reduce is not None and weights.restore is not None
            squeeze = slice_squeeze(weights.reduce, weights.restore, mid, block.se_channels)
        if block.projects_shortcut:
            assert weights.shortcut is not None
            shortcut = slice_matrix(weights.shortcut.weight, out, inside)
        return InvertedResidualTensors(
            expand,
            ConvTensors(_kernel(weights, mid, block.kernel_size), slice_norm(weights.depthwise_norm, mid)),
            squeeze,
            ConvTensors(slice_matrix(weights.project.weight, out, mid), slice_norm(weights.project_norm, out)),
            shortcut,
        )

    @staticmethod
    def middles(weights: InvertedResidualWeights) -> tuple[Middle, ...]:
        """Return the channels between expansion and projection, and those in the middle of squeeze-and-excitation.

        The former are none if a block takes them from its input, the latter if all blocks have the same.
        """
        return (*_between(weights), *_squeezed(weights))

    @staticmethod
    def forward(block: InvertedResidual, tensors: InvertedResidualTensors, x: Tensor, *, context: Context) -> Tensor:
        """`[N, in_channels, side, side] -> [N, out_channels, ...]`; what is dropped are whole samples of the branch.

        This drop-connect acts only where the shortcut is the input itself.
        """
        activation, statistics, eps = block.activation, context.statistics, block.bn_eps
        y = x
        if tensors.expand is not None:
            y = batch_norm(F.conv2d(y, tensors.expand.weight), tensors.expand.norm, statistics, eps, activation)
        y = pad_and_convolve(y, tensors.depthwise.weight, block.stride, block.margins, block.mid_channels)
        y = batch_norm(y, tensors.depthwise.norm, statistics, eps, activation)
        if tensors.squeeze is not None:
            y = squeeze_and_excite(block, y, tensors.squeeze)
        shortcut = _shortcut(block, tensors.shortcut, x) if block.residual else None
        told = context if block.identity else Context(statistics)
        return project(y, tensors.project, shortcut, told, eps, block.out_activation)


def _between(weights: InvertedResidualWeights) -> Iterator[Middle]:
    if weights.expand is None or weights.expand_norm is None or not weights.expanding:
        return
    tensors = [
        (weights.expand.weight, 0),
        *norm_entries(weights.expand_norm),
        (weights.depthwise.weight, 0),
        *norm_entries(weights.depthwise_norm),
        (weights.project.weight, 1),
    ]
    if weights.reduce is not None and weights.restore is not None:
        assert weights.restore.bias is not None
        tensors += [(weights.reduce.weight, 1), (weights.restore.weight, 0), (weights.restore.bias, 0)]
    yield Middle(tuple(tensors), weights.project.weight, weights.depthwise_norm.weight)


def _squeezed(weights: InvertedResidualWeights) -> Iterator[Middle]:
    if weights.reduce is None or weights.restore is None or not weights.squeezing:
        return
    assert weights.reduce.bias is not None
    tensors = ((weights.reduce.weight, 0), (weights.reduce.bias, 0), (weights.restore.weight, 1))
    yield Middle(tensors, weights.restore.weight, channels_of=attrgetter("se_channels"))


def _kernel(weights: InvertedResidualWeights, channels: int, kernel_size: int) -> Tensor:
    """Return the depthwise weight `[channels, 1, kernel_size, kernel_size]`, transformed step by step if the rule says
    so."""
    weight, transforms = weights.depthwise.weight, weights.transforms
    if transforms is None:
        return centre_crop(weight, channels, kernel_size)
    size = weights.depthwise.kernel_size[0]
    weight = centre_crop(weight, channels, size)
    while size > kernel_size:
        smaller = next(small for small in range(size - 2, 0, -2) if _name(small, size) in transforms)
        taps = centre_crop(weight, channels, smaller).flatten(1)
        weight = F.linear(taps, transforms[_name(smaller, size)]).view(channels, 1, smaller, smaller)
        size = smaller
    if weights.depthwise.weight.stride(1) == 1 and weight.stride(1) != 1:
        # Strides as in channels-last layout, which is the same memory: PyTorch goes by them where an image has one
        # pixel, and an extracted network's weights have them.
        weight = weight.view(channels, size, size, 1).permute(0, 3, 1, 2)
    return weight


def slice_squeeze(reduce: nn.Conv2d, restore: nn.Conv2d, mid: int, squeezed: int) -> SqueezeTensors:
    """Return leading channels of both convolutions, `mid` outside and `squeezed` between them."""
    assert reduce.bias is not None and restore.bias is not None
    return SqueezeTensors(
        slice_matrix(reduce.weight, squeezed, mid),
        reduce.bias if reduce.out_channels == squeezed else reduce.bias[:squeezed],
        slice_matrix(restore.weight, mid, squeezed),
        restore.bias if restore.out_channels == mid else restore.bias[:mid],
    )


def squeeze_and_excite(block: Squeezing, x: Tensor, tensors: SqueezeTensors) -> Tensor:
    """Scale the channels of `[N, channels, H, W]` by a gate computed from their means."""
    if kernels.pay(x):
        from nasdeploy.nn.kernels.squeeze import scaled, squeezed

        x, means = squeezed(x)
        return scaled(x, _gate(block, means, tensors))
    return x * _gate(block, F.adaptive_avg_pool2d(x, 1), tensors)


def _gate(block: Squeezing, means: Tensor, tensors: SqueezeTensors) -> Tensor:
    gate = ACTIVATIONS[block.se_activation](F.conv2d(means, tensors.reduce, tensors.reduce_bias))
    return GATES[block.gate](F.conv2d(gate, tensors.restore, tensors.restore_bias))


def _shortcut(block: InvertedResidual, weight: Tensor | None, x: Tensor) -> Tensor:
    if block.stride > 1:
        x = F.avg_pool2d(x, block.stride, padding=block.side % 2)
    return x if weight is None else F.conv2d(x, weight)
