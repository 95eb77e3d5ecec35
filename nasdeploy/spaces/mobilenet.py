"""Search spaces that are tables of stages (AlphaNet, Table 7): stem, MBConv stages, head; choices per stage."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

from pydantic import AfterValidator, Field, model_validator

from nasdeploy.blocks.feature_maps import Activation, strided
from nasdeploy.blocks.heads import ClassifierHead, PoolHead, Stem
from nasdeploy.blocks.inverted_residual import MBConv
from nasdeploy.core.arch import Arch, Choice
from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import Block, TensorType
from nasdeploy.core.settings import Settings, refuse_unused
from nasdeploy.core.space import SearchSpace, Slot
from nasdeploy.spaces.kind import SpaceSettings


def _ascending(values: tuple[int, ...]) -> tuple[int, ...]:
    if list(values) != sorted(set(values)):
        raise ValueError("list the values in ascending order, each once")
    return values


def _odd(values: tuple[int, ...]) -> tuple[int, ...]:
    if any(value % 2 == 0 for value in values):
        raise ValueError("kernel sizes are odd")
    return values


Values = Annotated[
    tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=1, max_length=64), AfterValidator(_ascending)
]
Kernels = Annotated[Values, AfterValidator(_odd)]


class StemRow(Settings):
    """The first convolution."""

    width: Values
    """The output channels that networks may have there, ascending."""
    kernel: Literal[3, 5, 7] = 3
    """The kernel size."""
    stride: Literal[1, 2] = 2
    """The stride."""


class StageRow(Settings):
    """A stage: blocks of one width, kernel and expansion; the stride is that of the first block."""

    width: Values
    """The output channels of its blocks that networks may have, ascending."""
    depth: Values
    """The numbers of blocks, ascending."""
    kernel: Kernels
    """The sizes of the depthwise kernels, odd and ascending."""
    expand: Values
    """The ratios of middle channels to input channels, ascending."""
    stride: Literal[1, 2] = 1
    """The stride of the first block."""
    se: bool = False
    """Whether blocks have squeeze-and-excitation."""
    activation: Activation | None = None
    """The activation of its blocks; the space's if left out."""


class HeadRow(Settings):
    """The layers behind the last stage."""

    kind: Literal["pool", "convolution"] = "pool"
    """What the head is made of: `pool`, a 1x1 convolution to `expand` times the last stage's width, pooling, a layer of
    `width`, and the classifier (AlphaNet); or `convolution`, a 1x1 convolution to `width`, pooling, and the classifier
    (BigNAS)."""
    width: Values
    """The channels before the classifier that networks may have, ascending."""
    expand: int = Field(default=6, ge=1, le=16)
    """The multiple of the last stage's width that `pool` expands to."""

    @model_validator(mode="after")
    def _used(self) -> "HeadRow":
        refuse_unused(self, "kind", {"expand": ("pool",)})
        return self


class MobileNetTable(SpaceSettings):
    """The settings of a table of stages, as a user writes them in YAML."""

    kind: Literal["table"] = "table"
    resolution: Values
    """The sides in pixels of the images that networks may take, ascending."""
    activation: Activation = "swish"
    """The activation of stem, head, and the stages that say no other."""
    stem: StemRow
    """The first convolution."""
    stages: tuple[StageRow, ...] = Field(min_length=1, max_length=16)
    """The stages, from the images on."""
    head: HeadRow
    """The layers behind the last stage."""
    named: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """The architectures that have a name: the values of their choices, by that name."""

    @model_validator(mode="after")
    def _resolution_survives(self) -> "MobileNetTable":
        require_sides(self.resolution, [self.stem.stride, *(stage.stride for stage in self.stages)])
        return self

    def build(self, output_size: int) -> "MobileNetSpace":
        """Return the space for a number of classes; raises `UserError` if a named architecture lies outside it."""
        space = MobileNetSpace(self, output_size)
        for name, values in self.named.items():
            try:
                space.arch(values)
            except UserError as error:
                raise UserError(f"space {self.name}: named.{name}: {error}") from None
        return space


class MobileNetSpace(SearchSpace):
    """The space of a table, for a number of classes.

    Choices: `resolution`, `width.0` (stem) .. `width.S` (last stage) and `width.S+1` (head), and per stage `depth.s`,
    `kernel_size.s`, `expand_ratio.s`. A smaller depth keeps a stage's first blocks.
    """

    def __init__(self, table: MobileNetTable, classes: int) -> None:
        self.table, self.classes, self.name = table, classes, table.name
        self.choices = _choices(table)
        self.slots = (
            Slot("stem", ("resolution", "width.0")),
            *(slot for stage in range(len(table.stages)) for slot in self._stage_slots(stage)),
            Slot("head", ("resolution", f"width.{len(table.stages)}", f"width.{len(table.stages) + 1}")),
        )

    def _stage_slots(self, stage: int) -> list[Slot]:
        row = self.table.stages[stage]
        own = (f"width.{stage + 1}", f"kernel_size.{stage}", f"expand_ratio.{stage}")
        slots = [Slot(f"stage{stage + 1}_block1", ("resolution", f"width.{stage}", *own))]
        for number in range(2, row.depth[-1] + 1):
            depth = (f"depth.{stage}",) if number > row.depth[0] else ()
            slots.append(Slot(f"stage{stage + 1}_block{number}", ("resolution", *own, *depth)))
        return slots

    def stage_of(self, slot: Slot) -> int | None:
        """Return the stage (from 0) that a slot belongs to; None for stem and head."""
        return None if slot.name in ("stem", "head") else place_of(slot)[0]

    @cached_property
    def _sides(self) -> dict[int, tuple[int, ...]]:
        """Return for each resolution the side of the feature map that enters each stage, and the head."""
        strides = [self.table.stem.stride, *(row.stride for row in self.table.stages)]
        return {resolution: sides_after(resolution, strides) for resolution in self.table.resolution}

    def block(self, slot: Slot, values: Mapping[str, int]) -> Block | None:
        """Return the block of a slot; None beyond the stage's depth."""
        stem = self.table.stem
        if slot.name == "stem":
            return Stem(values["resolution"], values["width.0"], stem.kernel, stem.stride, self.table.activation, 3)
        if slot.name == "head":
            return self._head(values)
        stage, number = place_of(slot)
        return None if number > values.get(f"depth.{stage}", number) else self._mbconv(stage, number, values)

    def _mbconv(self, stage: int, number: int, values: Mapping[str, int]) -> MBConv:
        row, width, first = self.table.stages[stage], values[f"width.{stage + 1}"], number == 1
        return MBConv(
            side=self._sides[values["resolution"]][stage if first else stage + 1],
            in_channels=values[f"width.{stage}"] if first else width,
            out_channels=width,
            kernel_size=values[f"kernel_size.{stage}"],
            expand_ratio=values[f"expand_ratio.{stage}"],
            stride=row.stride if first else 1,
            se=row.se,
            activation=row.activation or self.table.activation,
        )

    def _head(self, values: Mapping[str, int]) -> Block:
        row, activation, last = self.table.head, self.table.activation, len(self.table.stages)
        side, width, out = self._sides[values["resolution"]][last], values[f"width.{last}"], values[f"width.{last + 1}"]
        if row.kind == "convolution":
            return ClassifierHead(side, width, self.classes, activation, conv_channels=out)
        return PoolHead(side, width, out, row.expand, self.classes, activation)

    def inputs(self, part: str, arch: Arch) -> tuple[tuple[str, TensorType], ...]:
        """One RGB image at the architecture's resolution."""
        return (("input", TensorType((3, arch["resolution"], arch["resolution"]))),)

    @cached_property
    def named(self) -> Mapping[str, Arch]:
        """Architectures that the table names."""
        return {name: self.arch(values) for name, values in self.table.named.items()}


@runtime_checkable
class Staged(Protocol):
    """A space of stages of blocks, and a slot `head` behind them."""

    def stage_of(self, slot: Slot) -> int | None:
        """Return the stage (from 0) that a slot belongs to; None for a slot outside of stages."""


def drop_rates(space: SearchSpace, dropout: float, drop_connect: float) -> dict[str, float]:
    """Return the drop probability by slot that regularises the largest network of a staged space (AlphaNet's recipe).

    That is dropout in the head, and drop-connect in the last two stages, which grows with the block's index over all
    blocks of the network. A space of another kind has no such rates.
    """
    if not isinstance(space, Staged):
        return {}
    found = ((slot.name, space.stage_of(slot)) for slot in space.slots)
    blocks = [(name, stage) for name, stage in found if stage is not None]
    late = max(stage for _, stage in blocks) - 1
    rates = {name: drop_connect * index / len(blocks) for index, (name, stage) in enumerate(blocks) if stage >= late}
    return rates | {"head": dropout}


def _choices(table: MobileNetTable) -> tuple[Choice, ...]:
    widths = [table.stem.width, *(row.width for row in table.stages), table.head.width]
    return (
        Choice("resolution", table.resolution),
        *(Choice(f"width.{place}", values) for place, values in enumerate(widths)),
        *(Choice(f"depth.{stage}", row.depth) for stage, row in enumerate(table.stages)),
        *(Choice(f"kernel_size.{stage}", row.kernel) for stage, row in enumerate(table.stages)),
        *(Choice(f"expand_ratio.{stage}", row.expand) for stage, row in enumerate(table.stages)),
    )


def require_sides(resolutions: Values, strides: Sequence[int]) -> None:
    """Raise `ValueError` for images in which a stride would find a single position to begin with."""
    if resolutions[0] < prod(strides):
        raise ValueError(f"resolution {resolutions[0]} is smaller than the product of the strides, {prod(strides)}")


def sides_after(resolution: int, strides: Iterable[int]) -> tuple[int, ...]:
    """Return the side of an image's feature map after each of the strides."""
    return tuple(accumulate(strides, strided, initial=resolution))[1:]


def place_of(slot: Slot) -> tuple[int, int]:
    """Return stage (from 0) and block number (from 1) of a slot called `stageS_blockN`."""
    stage, number = slot.name.removeprefix("stage").split("_block")
    return int(stage) - 1, int(number)
