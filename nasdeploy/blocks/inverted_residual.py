"""Inverted residual blocks, which MobileNets, EfficientNets, once-for-all and AlphaNet are made of."""

from dataclasses import dataclass, field, fields
from typing import Literal

from nasdeploy.blocks.feature_maps import (
    Activation,
    FeatureMaps,
    Gate,
    PaddedConvolution,
    Padding,
    make_divisible,
    percent_of,
    squeeze_params,
)
from nasdeploy.core.plan import Block, key_of
from nasdeploy.core.space import Sharing

Shortcut = Literal["none", "identity", "average"]
"""A sum with the input where shapes allow it (`identity`), or with its means over the stride, projected (`average`).

`average` is there for every shape: average pooling for the stride, then a 1x1 convolution if widths differ (AlphaNet).
"""
Expansion = Literal["unless-equal", "always"]
"""An expansion is there if it widens (or narrows) what it takes, or in any case."""


@dataclass(frozen=True)
class KernelTransform(Sharing):
    """Smaller kernels are the centre of the next larger one, times a learned matrix (once-for-all, section 3.3)."""


@dataclass(frozen=True)
class InvertedResidual(FeatureMaps, PaddedConvolution, Block):
    """Inverted residual block: expand 1x1, depthwise, squeeze-and-excitation, project 1x1, and a shortcut.

    `[in_channels, side, side] -> [out_channels, side / stride, ...]`. Convolutions are followed by batch normalisation,
    the first two also by the activation. MobileNet v2 and v3, EfficientNet, once-for-all and AlphaNet are made of it.
    """

    side: int
    in_channels: int
    out_channels: int
    """The output channels."""
    kernel_size: int
    """The size of the depthwise kernel."""
    mid_channels: int
    """The channels between expansion and projection."""
    stride: int
    """The stride of the depthwise convolution."""
    se_channels: int
    """The channels in the middle of squeeze-and-excitation; 0 without it."""
    activation: Activation
    """The activation after the expansion and the depthwise convolution."""
    shortcut: Shortcut = "identity"
    """What is added to the result: nothing, the input where shapes allow it, or its means over the stride, projected if
    widths differ."""
    gate: Gate = "hardsigmoid"
    """What squeeze-and-excitation makes its factors with."""
    se_activation: Activation = "relu"
    """The activation in the middle of squeeze-and-excitation."""
    bn_eps: float = 1e-5
    """What batch normalisation adds to the variance."""
    padding: Padding = "symmetric"
    """The padding of the depthwise convolution."""
    expansion: Expansion = "unless-equal"
    """Whether there is an expansion where the middle has as many channels as the input."""
    out_activation: Activation | Literal["none"] = "none"
    """The activation after the projection, before a sum with the input: MobileNet v1's and LCNet's blocks have one."""

    @property
    def expands(self) -> bool:
        """Whether there is an expansion."""
        return self.expansion == "always" or self.mid_channels != self.in_channels

    @property
    def identity(self) -> bool:
        """Whether the shortcut is the input itself."""
        return self.shortcut != "none" and self.keeps_shape

    @property
    def residual(self) -> bool:
        """Whether there is a shortcut."""
        return self.identity or self.shortcut == "average"

    @property
    def projects_shortcut(self) -> bool:
        """Whether the shortcut has a convolution of its own."""
        return self.shortcut == "average" and self.in_channels != self.out_channels

    @property
    def macs(self) -> int:
        """The operations of all convolutions, squeeze-and-excitation and shortcut included."""
        mid, area = self.mid_channels, self.output.shape[1] ** 2
        expand = self.side**2 * self.in_channels * mid if self.expands else 0
        shortcut = area * self.in_channels * self.out_channels if self.projects_shortcut else 0
        spatial = area * mid * (self.kernel_size**2 + self.out_channels)
        return expand + spatial + 2 * mid * self.se_channels + shortcut

    @property
    def params(self) -> int:
        """The parameters of convolutions, their normalisations, and the biases of squeeze-and-excitation."""
        mid, squeeze = self.mid_channels, squeeze_params(self.mid_channels, self.se_channels)
        expand = mid * (self.in_channels + 2) if self.expands else 0
        shortcut = self.in_channels * self.out_channels if self.projects_shortcut else 0
        return expand + mid * (self.kernel_size**2 + 2) + squeeze + self.out_channels * (mid + 2) + shortcut

    @property
    def live(self) -> int:
        """The most elements at once: where there is a shortcut, the input stays beside all that is computed from it."""
        area, given, output = self.output.shape[1] ** 2, self.in_channels * self.side**2, self.output.elements
        wide, narrow = self.mid_channels * self.side**2, self.mid_channels * area
        scaled = 2 * narrow if self.se_channels else narrow
        if self.residual:
            return given + max(wide + narrow if self.expands else narrow, scaled, narrow + output, 2 * output)
        depthwise = max(given + wide, wide + narrow) if self.expands else given + narrow
        return max(depthwise, scaled, narrow + output)

    def cut(self, kernel_size: int, middle: int) -> "InvertedResidual":
        """Return a block with `middle` per cent of the middle channels, and a kernel of at most `kernel_size`.

        A block without an expansion keeps its channels, which are those of its input.
        """
        values = {each.name: getattr(self, each.name) for each in fields(InvertedResidual)}
        values["kernel_size"] = min(self.kernel_size, kernel_size)
        if self.expands:
            values |= {"mid_channels": percent_of(self.mid_channels, middle), "expansion": "always"}
        return InvertedResidual(**values)


@dataclass(frozen=True, init=False)
class MBConv(InvertedResidual):
    """AlphaNet's inverted residual block: its middle is a multiple of the input, a quarter of that is squeezed.

    The expansion is left out at ratio 1. The shortcut exists for every shape.
    """

    expand_ratio: int = field(init=False)
    se: bool = field(init=False)

    def __init__(
        self,
        side: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        expand_ratio: int,
        stride: int,
        se: bool,
        activation: Activation,
    ) -> None:
        mid = in_channels if expand_ratio == 1 else make_divisible(in_channels * expand_ratio)
        se_channels = make_divisible(mid // 4) if se else 0
        super().__init__(side, in_channels, out_channels, kernel_size, mid, stride, se_channels, activation, "average")
        object.__setattr__(self, "expand_ratio", expand_ratio)
        object.__setattr__(self, "se", se)

    @property
    def key(self) -> str:
        """The block's row in a latency table: what it was made from, which says all the rest."""
        return key_of("MBConv", {name: getattr(self, name) for name in _MADE_FROM})


_MADE_FROM = ("side", "in_channels", "out_channels", "kernel_size", "expand_ratio", "stride", "se", "activation")
