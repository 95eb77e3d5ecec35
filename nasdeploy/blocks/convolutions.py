"""Blocks whose spatial convolution mixes channels: one by itself, and one in place of expansion and depthwise."""

from dataclasses import dataclass, replace
from typing import Self

from nasdeploy.blocks.feature_maps import (
    Activation,
    Gate,
    PaddedConvolution,
    Padding,
    PlainResidual,
    PlainShortcut,
    percent_of,
    squeeze_params,
)
from nasdeploy.core.plan import Block


@dataclass(frozen=True)
class ConvBlock(PlainResidual, PaddedConvolution, Block):
    """Convolution, batch normalisation, activation, and maybe a shortcut.

    `[in_channels, side, side] -> [out_channels, side / stride, ...]`. MobileNet v3 ends with one of kernel size 1,
    EfficientNet v2 begins with some of 3.
    """

    side: int
    in_channels: int
    out_channels: int
    """The output channels."""
    kernel_size: int
    """The kernel size."""
    stride: int
    """The stride."""
    activation: Activation
    """The activation."""
    shortcut: PlainShortcut = "none"
    """The sum is that of the activation and the input."""
    bn_eps: float = 1e-5
    """What batch normalisation adds to the variance."""
    padding: Padding = "symmetric"
    """The padding of the convolution."""

    @property
    def macs(self) -> int:
        """The multiply-accumulates of the convolution."""
        return self.output.elements * self.in_channels * self.kernel_size**2

    @property
    def params(self) -> int:
        """The parameters of the convolution, which has no bias, and of its normalisation."""
        return self.out_channels * (self.in_channels * self.kernel_size**2 + 2)

    @property
    def live(self) -> int:
        """The elements of input and output, and of the sum of both."""
        return self.inputs[0].elements + self.output.elements * (2 if self.residual else 1)

    def cut(self, kernel_size: int, middle: int) -> Self:
        """Return the block with a kernel of at most `kernel_size`; it has no middle."""
        return replace(self, kernel_size=min(self.kernel_size, kernel_size))


@dataclass(frozen=True)
class FusedInvertedResidual(PlainResidual, PaddedConvolution, Block):
    """Convolution that expands, squeeze-and-excitation, projection 1x1, and a shortcut.

    `[in_channels, side, side] -> [out_channels, side / stride, ...]`. Convolutions are followed by batch normalisation,
    the first one also by the activation. EfficientNet-EdgeTPU (Gupta and Akin 2020) and EfficientNet v2 (Tan and Le
    2021, figure 2) have it in early stages, where it is faster than an expansion and a depthwise convolution.
    """

    side: int
    in_channels: int
    out_channels: int
    """The output channels."""
    kernel_size: int
    """The size of the expanding kernel."""
    mid_channels: int
    """The channels between expansion and projection."""
    stride: int
    """The stride of the expanding convolution."""
    se_channels: int
    """The channels in the middle of squeeze-and-excitation; 0 without it."""
    activation: Activation
    """The activation after the expanding convolution."""
    shortcut: PlainShortcut = "identity"
    """Whether the input is added to the result where shapes allow it."""
    gate: Gate = "sigmoid"
    """What squeeze-and-excitation makes its factors with."""
    se_activation: Activation = "relu"
    """The activation in the middle of squeeze-and-excitation."""
    bn_eps: float = 1e-5
    """What batch normalisation adds to the variance."""
    padding: Padding = "symmetric"
    """The padding of the expanding convolution."""

    @property
    def macs(self) -> int:
        """The multiply-accumulates of both convolutions and of squeeze-and-excitation."""
        spatial = self.in_channels * self.kernel_size**2 + self.out_channels
        return self.mid_channels * (self.output.shape[1] ** 2 * spatial + 2 * self.se_channels)

    @property
    def params(self) -> int:
        """The parameters of convolutions, their normalisations, and the biases of squeeze-and-excitation."""
        mid, squeeze = self.mid_channels, squeeze_params(self.mid_channels, self.se_channels)
        return mid * (self.in_channels * self.kernel_size**2 + 2) + squeeze + self.out_channels * (mid + 2)

    @property
    def live(self) -> int:
        """The most elements at once: where there is a shortcut, the input stays beside all that is computed from it."""
        given, output = self.inputs[0].elements, self.output.elements
        middle = self.mid_channels * self.output.shape[1] ** 2
        after = max(2 * middle if self.se_channels else 0, middle + output, 2 * output if self.residual else 0)
        return max(given + middle, after + given if self.residual else after)

    def cut(self, kernel_size: int, middle: int) -> Self:
        """Return the block with `middle` per cent of its middle channels, and a kernel of at most `kernel_size`."""
        mid = percent_of(self.mid_channels, middle)
        return replace(self, kernel_size=min(self.kernel_size, kernel_size), mid_channels=mid)
