"""What blocks that turn one feature map into another have in common: names, rounding, padding, types, shortcuts."""

from typing import Literal

from nasdeploy.core.plan import TensorType

Activation = Literal["swish", "relu", "relu6", "hswish"]
Gate = Literal["hardsigmoid", "sigmoid"]
PlainShortcut = Literal["none", "identity"]
"""A sum with the input where shapes allow it (`identity`), or no sum."""
Padding = Literal["symmetric", "same"]
"""Half the kernel on every side, or as little as TensorFlow's SAME does: below and on the right maybe one more."""


def make_divisible(value: float, divisor: int = 8) -> int:
    """`value` rounded to the nearest multiple of `divisor`, at least one, and one step up if that lost over 10 %."""
    rounded = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded


def percent_of(channels: int, percent: int) -> int:
    """Return a percentage of channels, rounded to a multiple of 8 where the channels are one: all of them at 100."""
    return channels if percent == 100 else min(channels, make_divisible(channels * percent / 100))


def strided(side: int, stride: int) -> int:
    """Return the side of a convolution's output with padding that makes it `side / stride`, rounded up."""
    return (side - 1) // stride + 1


def margins(side: int, kernel_size: int, stride: int, padding: Padding) -> tuple[int, int]:
    """Return the rows (and columns) of zeros before and after a convolution's input of that side."""
    if padding == "symmetric":
        return kernel_size // 2, kernel_size // 2
    missing = max((strided(side, stride) - 1) * stride + kernel_size - side, 0)
    return missing // 2, missing - missing // 2


def squeeze_params(channels: int, squeezed: int) -> int:
    """Return the weights and biases of squeeze-and-excitation on channels, with `squeezed` in its middle; 0 without."""
    return 2 * channels * squeezed + squeezed + channels if squeezed else 0


class FeatureMaps:
    """The types of a block's feature maps: `[in_channels, side, side] -> [out_channels, side / stride, ...]`.

    It has no fields of its own: each block lists them in the order in which its key names them.
    """

    side: int
    in_channels: int
    out_channels: int
    stride: int

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        """The type of the feature map, or of the image, that the block takes."""
        return (TensorType((self.in_channels, self.side, self.side)),)

    @property
    def output(self) -> TensorType:
        """The type of the feature map that the block gives."""
        side = strided(self.side, self.stride)
        return TensorType((self.out_channels, side, side))

    @property
    def keeps_shape(self) -> bool:
        """Whether input and output have the same shape, so that they can be added up."""
        return self.stride == 1 and self.in_channels == self.out_channels


class PlainResidual(FeatureMaps):
    """The feature maps of a block that adds its input to its output, as it is, where `shortcut` and shapes allow it."""

    shortcut: PlainShortcut

    @property
    def residual(self) -> bool:
        """Whether there is a shortcut."""
        return self.shortcut == "identity" and self.keeps_shape


class PaddedConvolution:
    """The padding of a block's convolution of several taps; it has no fields of its own either."""

    side: int
    kernel_size: int
    stride: int
    padding: Padding

    @property
    def margins(self) -> tuple[int, int]:
        """The rows (and columns) of zeros before and after the input of the convolution."""
        return margins(self.side, self.kernel_size, self.stride, self.padding)
