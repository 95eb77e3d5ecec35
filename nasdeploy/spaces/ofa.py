"""Search spaces of once-for-all networks (Cai et al. 2020, section 3): MobileNet v3's blocks with choices of their own.

Widths are fixed. A stage has a depth, each of its blocks a kernel and an expansion; smaller kernels are transformed
from larger ones.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field, model_validator

from nasdeploy.blocks.feature_maps import Activation, make_divisible
from nasdeploy.blocks.heads import ClassifierHead, Stem
from nasdeploy.blocks.inverted_residual import InvertedResidual, KernelTransform
from nasdeploy.core.arch import Arch, Choice
from nasdeploy.core.plan import Block, TensorType
from nasdeploy.core.settings import Settings
from nasdeploy.core.space import SearchSpace, Sharing, Slot
from nasdeploy.spaces.kind import SpaceSettings
from nasdeploy.spaces.mobilenet import Kernels, Values, place_of, require_sides, sides_after

Width = Annotated[int, Field(ge=1, le=4096)]


class OfaStem(Settings):
    """The first convolution, 3x3, with the activation of the space."""

    width: Width
    """The output channels."""
    stride: Literal[1, 2] = 2
    """The stride."""


class OfaFirstBlock(Settings):
    """The block after the stem, which is the same in all networks: depthwise 3x3, and a 1x1 convolution."""

    width: Width
    """The output channels."""
    activation: Activation | None = None
    """The activation; the space's if left out."""


class OfaStage(Settings):
    """A stage: blocks of one width, each with a kernel and an expansion of its own; the stride is the first block's."""

    width: Width
    """The output channels of its blocks."""
    depth: Values
    """The numbers of blocks that networks may have, ascending."""
    kernel: Kernels
    """The sizes of the depthwise kernels that each block may have, odd and ascending."""
    expand: Values
    """The ratios of middle channels to input channels that each block may have, ascending."""
    stride: Literal[1, 2] = 1
    """The stride of the first block."""
    se: bool = False
    """Whether blocks have squeeze-and-excitation."""
    activation: Activation | None = None
    """The activation of its blocks; the space's if left out."""


class OfaHead(Settings):
    """The head: a convolution before pooling, a layer without bias after it, the classifier."""

    conv_channels: Width
    """The output channels of the convolution before pooling."""
    hidden_channels: Width
    """The outputs of the layer after pooling."""


class OfaTable(SpaceSettings):
    """The settings of a space of once-for-all networks, as a user writes them in YAML."""

    kind: Literal["ofa"] = "ofa"
    resolution: Values
    """The sides in pixels of the images that networks may take, ascending."""
    activation: Activation = "hswish"
    """The activation of stem, head, and the stages that say no other."""
    stem: OfaStem
    """The first convolution."""
    first: OfaFirstBlock
    """The block after the stem."""
    stages: tuple[OfaStage, ...] = Field(min_length=1, max_length=16)
    """The stages, from the images on."""
    head: OfaHead
    """The layers behind the last stage."""

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides of the stem and of all stages, the first block's among them."""
        return (self.stem.stride, 1, *(stage.stride for stage in self.stages))

    @model_validator(mode="after")
    def _resolution_survives(self) -> "OfaTable":
        require_sides(self.resolution, self.strides)
        return self

    def build(self, output_size: int) -> "OfaSpace":
        """Return the space for a number of classes."""
        return OfaSpace(self, output_size)


class OfaSpace(SearchSpace):
    """The space of an `OfaTable`, for a number of classes.

    Choices: `resolution`, `depth.s` for each stage s, and `kernel_size.b` and `expand_ratio.b` for each block b that
    some network has in a stage, counted through all stages. A smaller depth keeps a stage's first blocks.

    The first stage, `stage1`, is the block without choices; the stages of the table follow it.
    """

    def __init__(self, table: OfaTable, classes: int) -> None:
        self.table, self.classes, self.name = table, classes, table.name
        self._first = [sum(row.depth[-1] for row in table.stages[:stage]) for stage in range(len(table.stages))]
        rows = [row for row in table.stages for _ in range(row.depth[-1])]
        self.choices = (
            Choice("resolution", table.resolution),
            *(Choice(f"depth.{stage}", row.depth) for stage, row in enumerate(table.stages)),
            *(Choice(f"kernel_size.{block}", row.kernel) for block, row in enumerate(rows)),
            *(Choice(f"expand_ratio.{block}", row.expand) for block, row in enumerate(rows)),
        )
        self.slots = (
            Slot("stem", ("resolution",)),
            Slot("stage1_block1", ("resolution",)),
            *(slot for stage in range(len(table.stages)) for slot in self._stage_slots(stage)),
            Slot("head", ("resolution",)),
        )

    def _stage_slots(self, stage: int) -> list[Slot]:
        row, slots = self.table.stages[stage], []
        for number in range(1, row.depth[-1] + 1):
            block = self._first[stage] + number - 1
            depth = (f"depth.{stage}",) if number > row.depth[0] or len(row.depth) == 1 else ()
            reads = ("resolution", f"kernel_size.{block}", f"expand_ratio.{block}", *depth)
            sharing = KernelTransform() if len(row.kernel) > 1 else Sharing()
            slots.append(Slot(f"stage{stage + 2}_block{number}", reads, sharing=sharing))
        return slots

    def stage_of(self, slot: Slot) -> int | None:
        """Return the stage (from 0, the block without choices) that a slot belongs to; None for stem and head."""
        return None if slot.name in ("stem", "head") else place_of(slot)[0]

    @cached_property
    def _sides(self) -> dict[int, tuple[int, ...]]:
        """Return for each resolution the side of the feature map that enters each stage, and the head."""
        return {resolution: sides_after(resolution, self.table.strides) for resolution in self.table.resolution}

    def block(self, slot: Slot, values: Mapping[str, int]) -> Block | None:
        """Return the block of a slot; None beyond the stage's depth."""
        table, resolution = self.table, values["resolution"]
        sides, activation = self._sides[resolution], table.activation
        if slot.name == "stem":
            return Stem(resolution, table.stem.width, 3, table.stem.stride, activation, 3)
        if slot.name == "head":
            head, width = table.head, table.stages[-1].width
            conv, hidden = head.conv_channels, head.hidden_channels
            return ClassifierHead(sides[-1], width, self.classes, activation, conv, hidden, hidden_bias=False)
        stage, number = place_of(slot)
        if stage == 0:
            first, width = table.first, table.stem.width
            return InvertedResidual(sides[0], width, first.width, 3, width, 1, 0, first.activation or activation)
        return None if number > values.get(f"depth.{stage - 1}", number) else self._chosen(stage - 1, number, values)

    def _chosen(self, stage: int, number: int, values: Mapping[str, int]) -> InvertedResidual:
        """Return a block of a stage (from 0) of the table."""
        table, place = self.table, self._first[stage] + number - 1
        row, first = table.stages[stage], number == 1
        before = table.stages[stage - 1].width if stage else table.first.width
        in_channels = before if first else row.width
        middle = make_divisible(in_channels * values[f"expand_ratio.{place}"])
        return InvertedResidual(
            side=self._sides[values["resolution"]][stage + 1 if first else stage + 2],
            in_channels=in_channels,
            out_channels=row.width,
            kernel_size=values[f"kernel_size.{place}"],
            mid_channels=middle,
            stride=row.stride if first else 1,
            se_channels=make_divisible(middle // 4) if row.se else 0,
            activation=row.activation or table.activation,
        )

    def inputs(self, part: str, arch: Arch) -> tuple[tuple[str, TensorType], ...]:
        """One RGB image at the architecture's resolution."""
        return (("input", TensorType((3, arch["resolution"], arch["resolution"]))),)
