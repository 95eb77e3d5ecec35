"""Blocks of MobileNet-like networks: stem convolution, MBConv and pooling head (AlphaNet, Table 7)."""

from dataclasses import dataclass

from nasdeploy.core.plan import Block, TensorType

Activation = str
"""`swish`, `relu` or `hswish`."""


def make_divisible(value: float, divisor: int = 8) -> int:
    """`value` rounded to the nearest multiple of `divisor`, at least one, and one step up if that lost over 10 %."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def strided(side: int, stride: int) -> int:
    """Side of the output of a convolution with padding kernel // 2."""
    return (side - 1) // stride + 1


@dataclass(frozen=True)
class Stem(Block):
    """Convolution, batch normalisation, activation: `[3, side, side] -> [out_channels, side / stride, ...]`."""

    side: int
    out_channels: int
    kernel_size: int
    stride: int
    activation: Activation
    in_channels: int = 3

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        """One image."""
        return (TensorType((self.in_channels, self.side, self.side)),)

    @property
    def output(self) -> TensorType:
        """Feature map."""
        side = strided(self.side, self.stride)
        return TensorType((self.out_channels, side, side))

    @property
    def macs(self) -> int:
        """Of the convolution."""
        return self.output.shape[1] ** 2 * self.out_channels * self.in_channels * self.kernel_size**2

    @property
    def params(self) -> int:
        """Convolution without bias, and batch normalisation."""
        return self.out_channels * (self.in_channels * self.kernel_size**2 + 2)


@dataclass(frozen=True)
class MBConv(Block):
    """Inverted residual block: expand 1x1, depthwise, squeeze-and-excitation, project 1x1, plus a shortcut.

    `[in_channels, side, side] -> [out_channels, side / stride, ...]`. The expansion is left out at ratio 1. The
    shortcut exists for every shape: average pooling for the stride, then a 1x1 convolution if the widths differ.
    """

    side: int
    in_channels: int
    out_channels: int
    kernel_size: int
    expand_ratio: int
    stride: int
    se: bool
    activation: Activation

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        """One feature map."""
        return (TensorType((self.in_channels, self.side, self.side)),)

    @property
    def output(self) -> TensorType:
        """Feature map."""
        side = strided(self.side, self.stride)
        return TensorType((self.out_channels, side, side))

    @property
    def mid_channels(self) -> int:
        """Channels between expansion and projection; without expansion the input's."""
        return self.in_channels if self.expand_ratio == 1 else make_divisible(self.in_channels * self.expand_ratio)

    @property
    def se_channels(self) -> int:
        """Channels in the middle of squeeze-and-excitation; 0 without it."""
        return make_divisible(self.mid_channels // 4) if self.se else 0

    @property
    def identity(self) -> bool:
        """Whether the shortcut is the input itself."""
        return self.stride == 1 and self.in_channels == self.out_channels

    @property
    def macs(self) -> int:
        """Of all convolutions, squeeze-and-excitation and shortcut included."""
        mid, area = self.mid_channels, self.output.shape[1] ** 2
        expand = 0 if self.expand_ratio == 1 else self.side**2 * self.in_channels * mid
        shortcut = 0 if self.in_channels == self.out_channels else area * self.in_channels * self.out_channels
        spatial = area * mid * (self.kernel_size**2 + self.out_channels)
        return expand + spatial + 2 * mid * self.se_channels + shortcut

    @property
    def params(self) -> int:
        """Convolutions, their batch normalisations, and the biases of squeeze-and-excitation."""
        mid, se = self.mid_channels, self.se_channels
        expand = 0 if self.expand_ratio == 1 else mid * (self.in_channels + 2)
        shortcut = 0 if self.in_channels == self.out_channels else self.in_channels * self.out_channels
        squeeze = 2 * mid * se + se + mid if self.se else 0
        return expand + mid * (self.kernel_size**2 + 2) + squeeze + self.out_channels * (mid + 2) + shortcut

    @property
    def live(self) -> int:
        """The input stays for the shortcut: beside it before and after the depthwise convolution, then the output."""
        area, given, output = self.output.shape[1] ** 2, self.in_channels * self.side**2, self.output.elements
        wide, narrow = self.mid_channels * self.side**2, self.mid_channels * area
        depthwise = narrow if self.expand_ratio == 1 else wide + narrow
        scaled = 2 * narrow if self.se else narrow
        return given + max(depthwise, scaled, narrow + output, 2 * output)


@dataclass(frozen=True)
class PoolHead(Block):
    """The efficient last stage: 1x1 convolution, pooling, 1x1 convolution without normalisation, classifier.

    `[in_channels, side, side] -> [classes]`, logits.
    """

    side: int
    in_channels: int
    out_channels: int
    expand_ratio: int
    classes: int
    activation: Activation

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        """One feature map."""
        return (TensorType((self.in_channels, self.side, self.side)),)

    @property
    def output(self) -> TensorType:
        """Logits."""
        return TensorType((self.classes,))

    @property
    def mid_channels(self) -> int:
        """Channels before pooling."""
        return make_divisible(self.in_channels * self.expand_ratio)

    @property
    def macs(self) -> int:
        """Of the two convolutions and the classifier."""
        expand = self.side**2 * self.in_channels * self.mid_channels
        return expand + self.mid_channels * self.out_channels + self.out_channels * self.classes

    @property
    def params(self) -> int:
        """Of the first convolution with its normalisation, the second, and the classifier with its bias."""
        expand = self.mid_channels * (self.in_channels + 2)
        return expand + self.mid_channels * self.out_channels + (self.out_channels + 1) * self.classes

    @property
    def live(self) -> int:
        """Input and output of the first convolution."""
        return (self.in_channels + self.mid_channels) * self.side**2
