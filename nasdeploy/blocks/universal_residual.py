"""The universal inverted residual block of MobileNet v4 (Qin et al. 2024, section 3)."""

from dataclasses import dataclass, replace
from typing import Self

from nasdeploy.blocks.feature_maps import (
    Activation,
    Padding,
    PlainResidual,
    PlainShortcut,
    margins,
    percent_of,
    strided,
)
from nasdeploy.core.plan import Block


@dataclass(frozen=True)
class UniversalInvertedResidual(PlainResidual, Block):
    """Optional depthwise convolution, expansion 1x1, optional depthwise convolution, projection 1x1, and a shortcut.

    `[in_channels, side, side] -> [out_channels, side / stride, ...]`. Convolutions are followed by batch normalisation,
    the expansion and the middle one also by the activation. With a middle depthwise convolution alone it is an inverted
    residual block, with the first one alone a block of ConvNeXt, without either a feed-forward network.
    """

    side: int
    in_channels: int
    out_channels: int
    """The output channels."""
    mid_channels: int
    """The channels between expansion and projection."""
    stride: int
    """The stride of the middle depthwise convolution, or of the first one if there is no middle one."""
    activation: Activation
    """The activation after the expansion and the middle depthwise convolution."""
    start_kernel: int = 0
    """The kernel size of the depthwise convolution before the expansion; 0 without it."""
    middle_kernel: int = 0
    """The kernel size of the depthwise convolution after the expansion; 0 without it."""
    shortcut: PlainShortcut = "identity"
    """Whether the input is added to the result where shapes allow it."""
    bn_eps: float = 1e-5
    """What batch normalisation adds to the variance."""
    padding: Padding = "symmetric"
    """The padding of the depthwise convolutions."""

    def __post_init__(self) -> None:
        if self.stride > 1 and self.kernel_size == 1:
            raise ValueError(f"a stride of {self.stride} needs a depthwise convolution; the block has none")

    @property
    def kernel_size(self) -> int:
        """The largest kernel, which is 1 without depthwise convolutions."""
        return max(self.start_kernel, self.middle_kernel, 1)

    @property
    def strides(self) -> tuple[int, int]:
        """The strides of the two depthwise convolutions."""
        return (1, self.stride) if self.middle_kernel else (self.stride, 1)

    @property
    def expanded_side(self) -> int:
        """The side of the feature map that is expanded."""
        return strided(self.side, self.strides[0])

    @property
    def start_margins(self) -> tuple[int, int]:
        """The rows (and columns) of zeros before and after the input of the first depthwise convolution."""
        return margins(self.side, self.start_kernel, self.strides[0], self.padding)

    @property
    def middle_margins(self) -> tuple[int, int]:
        """The rows (and columns) of zeros before and after the input of the middle depthwise convolution."""
        return margins(self.expanded_side, self.middle_kernel, self.strides[1], self.padding)

    @property
    def macs(self) -> int:
        """The multiply-accumulates of all convolutions."""
        expanded, area = self.expanded_side**2, self.output.shape[1] ** 2
        start = expanded * self.in_channels * self.start_kernel**2
        middle = area * (self.middle_kernel**2 + self.out_channels)
        return start + self.mid_channels * (expanded * self.in_channels + middle)

    @property
    def params(self) -> int:
        """The parameters of convolutions and their normalisations."""
        start = self.in_channels * (self.start_kernel**2 + 2) if self.start_kernel else 0
        middle = self.mid_channels * (self.middle_kernel**2 + 2) if self.middle_kernel else 0
        return start + self.mid_channels * (self.in_channels + 2) + middle + self.out_channels * (self.mid_channels + 2)

    @property
    def live(self) -> int:
        """The most elements at once: where there is a shortcut, the input stays beside all that is computed from it."""
        given, output = self.inputs[0].elements, self.output.elements
        started = self.in_channels * self.expanded_side**2
        wide, narrow = self.mid_channels * self.expanded_side**2, self.mid_channels * self.output.shape[1] ** 2
        kept = given if self.residual else 0
        expansion = kept + started + wide if self.start_kernel else given + wide
        middle = kept + wide + narrow if self.middle_kernel else 0
        start = given + started if self.start_kernel else 0
        return max(start, expansion, middle, kept + narrow + output, kept + 2 * output if self.residual else 0)

    def cut(self, kernel_size: int, middle: int) -> Self:
        """Return the block with `middle` per cent of its middle channels, and kernels of at most `kernel_size`."""
        return replace(
            self,
            start_kernel=min(self.start_kernel, kernel_size),
            middle_kernel=min(self.middle_kernel, kernel_size),
            mid_channels=percent_of(self.mid_channels, middle),
        )
