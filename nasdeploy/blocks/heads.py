"""The first and the last block of MobileNet-like networks: stem convolution and pooling head (AlphaNet, Table 7)."""

from dataclasses import dataclass

from nasdeploy.blocks.inverted_residual import Activation, make_divisible, strided
from nasdeploy.core.plan import Block, TensorType


@dataclass(frozen=True)
class Stem(Block):
    """Convolution, batch normalisation, activation: `[3, side, side] -> [out_channels, side / stride, ...]`."""

    side: int
    out_channels: int
    kernel_size: int
    stride: int
    activation: Activation
    in_channels: int

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        """The type of the image."""
        return (TensorType((self.in_channels, self.side, self.side)),)

    @property
    def output(self) -> TensorType:
        """The type of the feature map."""
        side = strided(self.side, self.stride)
        return TensorType((self.out_channels, side, side))

    @property
    def macs(self) -> int:
        """The multiply-accumulates of the convolution."""
        return self.output.shape[1] ** 2 * self.out_channels * self.in_channels * self.kernel_size**2

    @property
    def params(self) -> int:
        """The parameters of the convolution, which has no bias, and of its normalisation."""
        return self.out_channels * (self.in_channels * self.kernel_size**2 + 2)


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
        """The type of the feature map."""
        return (TensorType((self.in_channels, self.side, self.side)),)

    @property
    def output(self) -> TensorType:
        """The type of the logits."""
        return TensorType((self.classes,))

    @property
    def mid_channels(self) -> int:
        """The channels before pooling."""
        return make_divisible(self.in_channels * self.expand_ratio)

    @property
    def macs(self) -> int:
        """The multiply-accumulates of the two convolutions and the classifier."""
        expand = self.side**2 * self.in_channels * self.mid_channels
        return expand + self.mid_channels * self.out_channels + self.out_channels * self.classes

    @property
    def params(self) -> int:
        """The parameters of both convolutions, of the first one's normalisation, and of the classifier."""
        expand = self.mid_channels * (self.in_channels + 2)
        return expand + self.mid_channels * self.out_channels + (self.out_channels + 1) * self.classes

    @property
    def live(self) -> int:
        """The elements of the first convolution's input and output."""
        return (self.in_channels + self.mid_channels) * self.side**2
