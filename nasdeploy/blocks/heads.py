"""The first and the last blocks of networks: stem convolution; pooling heads of AlphaNet (Table 7) and of others."""

from dataclasses import dataclass

from nasdeploy.blocks.feature_maps import Activation, FeatureMaps, PaddedConvolution, Padding, make_divisible
from nasdeploy.core.plan import Block, TensorType


@dataclass(frozen=True)
class Stem(FeatureMaps, PaddedConvolution, Block):
    """Convolution, batch normalisation, activation: `[3, side, side] -> [out_channels, side / stride, ...]`."""

    side: int
    out_channels: int
    """The output channels."""
    kernel_size: int
    """The kernel size."""
    stride: int
    """The stride."""
    activation: Activation
    """The activation."""
    in_channels: int
    bn_eps: float = 1e-5
    """What batch normalisation adds to the variance."""
    padding: Padding = "symmetric"
    """The padding of the convolution."""

    @property
    def macs(self) -> int:
        """The multiply-accumulates of the convolution."""
        return self.output.shape[1] ** 2 * self.out_channels * self.in_channels * self.kernel_size**2

    @property
    def params(self) -> int:
        """The parameters of the convolution, which has no bias, and of its normalisation."""
        return self.out_channels * (self.in_channels * self.kernel_size**2 + 2)


class _ClassifyingHead:
    """The types of heads: `[in_channels, side, side] -> [classes]`, logits. Each head lists the fields."""

    side: int
    in_channels: int
    classes: int

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        """The type of the feature map."""
        return (TensorType((self.in_channels, self.side, self.side)),)

    @property
    def output(self) -> TensorType:
        """The type of the logits."""
        return TensorType((self.classes,))


@dataclass(frozen=True)
class PoolHead(_ClassifyingHead, Block):
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


@dataclass(frozen=True)
class ClassifierHead(_ClassifyingHead, Block):
    """Convolution 1x1 with normalisation and activation, pooling, hidden layer with activation, classifier.

    `[in_channels, side, side] -> [classes]`, logits. EfficientNets have the convolution, MobileNet v3 the hidden layer,
    ResNets neither.
    """

    side: int
    in_channels: int
    classes: int
    """The number of classes, and of logits."""
    activation: Activation
    """The activation after the convolution and after the hidden layer."""
    conv_channels: int = 0
    """The outputs of the convolution before pooling; 0 without it."""
    hidden_channels: int = 0
    """The outputs of the layer after pooling; 0 without it."""
    bn_eps: float = 1e-5
    """What batch normalisation adds to the variance."""
    hidden_bias: bool = True
    """Whether the layer after pooling has a bias."""
    hidden_norm: bool = False
    """Whether the layer after pooling is followed by batch normalisation, before its activation (MobileNet v4)."""

    @property
    def pooled(self) -> int:
        """The channels that are pooled."""
        return self.conv_channels or self.in_channels

    @property
    def features(self) -> int:
        """The inputs of the classifier."""
        return self.hidden_channels or self.pooled

    @property
    def macs(self) -> int:
        """The multiply-accumulates of convolution, hidden layer and classifier."""
        conv = self.side**2 * self.in_channels * self.conv_channels
        return conv + self.pooled * self.hidden_channels + self.features * self.classes

    @property
    def params(self) -> int:
        """The parameters of all layers and of the normalisation."""
        conv = self.conv_channels * (self.in_channels + 2)
        hidden = self.hidden_channels * (self.pooled + int(self.hidden_bias) + 2 * int(self.hidden_norm))
        return conv + hidden + (self.features + 1) * self.classes

    @property
    def live(self) -> int:
        """The elements of the convolution's input and output, or of the feature map and what is pooled."""
        return (self.in_channels + self.conv_channels) * self.side**2 + (0 if self.conv_channels else self.in_channels)
