"""The blocks of ResNets (He et al. 2016): stems that pool, blocks of two convolutions, and bottlenecks of three.

Variants are those of He et al. 2019 ("bag of tricks"): deep stems, and shortcuts that average before they project.
"""

from abc import abstractmethod
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal, Self

from nasdeploy.blocks.feature_maps import Activation, FeatureMaps, Gate, percent_of, squeeze_params, strided
from nasdeploy.core.plan import Block, TensorType

StemPooling = Literal["max", "convolution"]
"""What halves the side at the end of a stem: the largest of 3x3, or a convolution 3x3 with normalisation."""
Projection = Literal["convolution", "average"]
"""A strided 1x1 convolution, or means over the stride and a 1x1 convolution; with normalisation."""
KERNEL = 3
"""The kernel of all convolutions of blocks that look at more than one pixel."""


@dataclass(frozen=True)
class PoolingStem(Block):
    """One strided convolution or a strided one and two more, normalisations and activations, and pooling.

    `[in_channels, side, side] -> [out_channels, side / 4, ...]`.
    """

    side: int
    in_channels: int
    out_channels: int
    """The output channels."""
    kernel_size: int
    """The size of the first convolution's kernel."""
    activation: Activation
    """The activation after each convolution."""
    first_channels: int = 0
    """The channels after the first of three convolutions; 0 where there is one."""
    second_channels: int = 0
    """The channels after the second of three convolutions; 0 where there is one."""
    pooling: StemPooling = "max"
    """What halves the side at the end: the largest of 3x3, or a convolution 3x3 with normalisation."""
    bn_eps: float = 1e-5
    """What batch normalisation adds to the variance."""

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        """The type of the image."""
        return (TensorType((self.in_channels, self.side, self.side)),)

    @property
    def output(self) -> TensorType:
        """The type of the feature map."""
        side = strided(self._inner_side, 2)
        return TensorType((self.out_channels, side, side))

    @property
    def _inner_side(self) -> int:
        return strided(self.side, 2)

    @property
    def widths(self) -> tuple[int, ...]:
        """The channels before the first and after each convolution at half of the side."""
        deep = (self.first_channels, self.second_channels) if self.first_channels else ()
        return (self.in_channels, *deep, self.out_channels)

    @property
    def _weights(self) -> int:
        """The weights of the convolutions before pooling."""
        return self.kernel_size**2 * sum(a * b for a, b in zip(self.widths, self.widths[1:], strict=False))

    @property
    def _pooling_weights(self) -> int:
        return KERNEL**2 * self.out_channels**2 if self.pooling == "convolution" else 0

    @property
    def macs(self) -> int:
        """The multiply-accumulates of the convolutions; to find the largest takes none."""
        return self._inner_side**2 * self._weights + self.output.shape[1] ** 2 * self._pooling_weights

    @property
    def params(self) -> int:
        """The parameters of the convolutions, which have no bias, and of their normalisations."""
        norms = sum(self.widths[1:]) + (self.out_channels if self.pooling == "convolution" else 0)
        return self._weights + self._pooling_weights + 2 * norms

    @property
    def live(self) -> int:
        """The most elements at once: the input and output of a convolution or of pooling."""
        area = self._inner_side**2
        first = self.inputs[0].elements + self.widths[1] * area
        inner = [(a + b) * area for a, b in zip(self.widths[1:], self.widths[2:], strict=False)]
        return max(first, *inner, self.out_channels * area + self.output.elements)


@dataclass(frozen=True)
class _Residual(FeatureMaps, Block):
    """What blocks of ResNets have in common: a branch, squeeze-and-excitation, a shortcut, and an activation after all.

    `[in_channels, side, side] -> [out_channels, side / stride, ...]`. Each convolution is followed by batch
    normalisation, and all but the last one by the activation.
    """

    side: int
    in_channels: int
    out_channels: int
    """The output channels."""
    mid_channels: int
    """The channels inside the branch."""
    stride: int
    """The stride of the convolution that has one, and of the shortcut."""
    activation: Activation
    """The activation after each convolution, and after the sum."""
    projection: Projection = "convolution"
    """What the shortcut is where shapes differ; else it is the input."""
    se_channels: int = 0
    """The channels in the middle of squeeze-and-excitation at the end of the branch; 0 without it."""
    gate: Gate = "sigmoid"
    """What squeeze-and-excitation makes its factors with."""
    se_activation: Activation = "relu"
    """The activation in the middle of squeeze-and-excitation."""
    bn_eps: float = 1e-5
    """What batch normalisation adds to the variance."""

    @property
    def identity(self) -> bool:
        """Whether the shortcut is the input itself."""
        return self.keeps_shape

    @property
    @abstractmethod
    def _branch(self) -> tuple[int, int, int]:
        """Multiply-accumulates, parameters and most elements at once of the convolutions in the branch."""

    @property
    def _shortcut(self) -> int:
        """The weights of the shortcut's convolution."""
        return 0 if self.identity else self.in_channels * self.out_channels

    @property
    def macs(self) -> int:
        """The operations of all convolutions, squeeze-and-excitation and shortcut included."""
        squeeze = 2 * self.out_channels * self.se_channels
        return self._branch[0] + squeeze + self.output.shape[1] ** 2 * self._shortcut

    @property
    def params(self) -> int:
        """The parameters of convolutions, their normalisations, and the biases of squeeze-and-excitation."""
        out, shortcut = self.out_channels, self._shortcut
        return self._branch[1] + squeeze_params(out, self.se_channels) + (shortcut + 2 * out if shortcut else 0)

    @property
    def live(self) -> int:
        """The most elements at once: the input stays beside the branch until the shortcut is computed from it."""
        given, output = self.inputs[0].elements, self.output.elements
        averaged = 0
        if not self.identity and self.projection == "average" and self.stride > 1:
            averaged = self.in_channels * self.output.shape[1] ** 2
        summing = given + output if self.identity else output + max(given + averaged, (averaged or given) + output)
        return max(self._branch[2], summing, given + 2 * output if self.se_channels else 0)


@dataclass(frozen=True)
class BasicBlock(_Residual):
    """Two convolutions 3x3 beside a shortcut, the first one strided: what ResNet-18 and -34 are made of."""

    @property
    def _branch(self) -> tuple[int, int, int]:
        mid, area = self.mid_channels, self.output.shape[1] ** 2
        weights = KERNEL**2 * mid * (self.in_channels + self.out_channels)
        live = self.inputs[0].elements + mid * area + self.output.elements
        return area * weights, weights + 2 * (mid + self.out_channels), live

    def cut(self, kernel_size: int, middle: int) -> Self:
        """Return the block with `middle` per cent of its middle channels; its kernels stay."""
        return replace(self, mid_channels=percent_of(self.mid_channels, middle))


@dataclass(frozen=True)
class Bottleneck(_Residual):
    """Convolutions 1x1, 3x3 and 1x1 beside a shortcut, the second one strided: ResNet-50 and larger ones, ResNeXts."""

    group_width: int = 0
    """The channels of each group of the 3x3 convolution (Xie et al. 2017); 0 where it has one group."""

    @property
    def groups(self) -> int:
        """The number of groups of the 3x3 convolution."""
        return self.mid_channels // self.group_width if self.group_width else 1

    @property
    def _branch(self) -> tuple[int, int, int]:
        mid, area, given = self.mid_channels, self.output.shape[1] ** 2, self.inputs[0].elements
        reduce, spatial, expand = self.in_channels * mid, KERNEL**2 * mid * mid // self.groups, mid * self.out_channels
        macs = self.side**2 * reduce + area * (spatial + expand)
        live = given + mid * area + max(mid * self.side**2, self.output.elements)
        return macs, reduce + spatial + expand + 2 * (2 * mid + self.out_channels), live

    def cut(self, kernel_size: int, middle: int) -> Self:
        """Return the block with `middle` per cent of its middle channels, whole groups of them; its kernels stay."""
        mid, width = percent_of(self.mid_channels, middle), self.group_width or 1
        return replace(self, mid_channels=ceil(mid / width) * width)
