"""Search spaces grown from an existing network: the network itself is the largest one, all others are cut out of it.

Blocks are left out at the end of stages, middle channels and kernels become smaller, images too. What passes from block
to block keeps its channels, so that any block can be cut by itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from typing import Annotated, Any, Literal, Protocol, get_type_hints, runtime_checkable

from pydantic import Field, SerializeAsAny, create_model

from nasdeploy.blocks import BLOCKS
from nasdeploy.core.arch import Arch, Choice
from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import Block, TensorType
from nasdeploy.core.settings import ByKind, Settings
from nasdeploy.core.space import SearchSpace, Slot
from nasdeploy.spaces.kind import SpaceSettings
from nasdeploy.spaces.mobilenet import Kernels, Values


@runtime_checkable
class Growable(Protocol):
    """A block out of which smaller ones can be cut."""

    def cut(self, kernel_size: int, middle: int) -> Block:
        """Return the block with kernels of at most `kernel_size` and `middle` per cent of its middle channels."""


class BlockRow(Settings):
    """Blocks of an existing network: the fields of a block's class but for the shape of its input, which follows."""

    kind: str
    repeat: int = Field(default=1, ge=1, le=256)
    """The number of such blocks that stand there in a row."""

    def block(self, side: int, in_channels: int) -> Block:
        """Return the block for a feature map `[in_channels, side, side]`."""
        values = {name: getattr(self, name) for name in type(self).model_fields if name not in ("kind", "repeat")}
        made: Callable[..., Block] = BLOCKS[self.kind]
        return made(side=side, in_channels=in_channels, **values)


def _row(kind: str, block: type[Block]) -> type[BlockRow]:
    """Return the settings class of a row of blocks of a class, made from the fields of that class."""
    hints = get_type_hints(block)
    given = [field for field in fields(block) if field.name not in ("side", "in_channels")]
    types = {field.name: _Count if hints[field.name] is int else hints[field.name] for field in given}
    found: Any = {f.name: (types[f.name], ... if f.default is MISSING else f.default) for f in given}
    found["kind"] = (Literal[kind], kind)
    row: type[BlockRow] = create_model(f"{block.__name__}Row", __base__=BlockRow, **found)
    return row


_Count = Annotated[int, Field(ge=0, le=65536)]
ROWS: dict[str, type[BlockRow]] = {kind: _row(kind, block) for kind, block in BLOCKS.items()}
"""The settings class of each kind of block."""
Row = Annotated[SerializeAsAny[BlockRow], ByKind("kind of block", ROWS, "inverted-residual")]


class GrownStage(Settings):
    """A stage of the original, and what may be cut there; without choices it stays as it is."""

    blocks: tuple[Row, ...] = Field(min_length=1, max_length=256)
    depth: Values | None = None
    """The numbers of its blocks that a network may have; the last of them are left out. By default all."""
    kernel_size: Kernels | None = None
    """The largest kernels that a network has there. By default each block has its own."""
    middle: Annotated[Values, Field()] = (100,)
    """The middle channels of its blocks, in per cent of the original's; they are rounded to multiples of 8."""

    @property
    def length(self) -> int:
        """The number of blocks of the original."""
        return sum(row.repeat for row in self.blocks)


class GrownSettings(SpaceSettings):
    """The settings of a space that is grown from a network, as `nasdeploy init --from` writes them."""

    kind: Literal["grown"] = "grown"
    resolution: Values
    stem: Row
    stages: tuple[GrownStage, ...] = Field(min_length=1, max_length=32)
    head: Row

    def build(self, output_size: int) -> "GrownSpace":
        """Return the space for a number of classes; raises `UserError` for stages that do not fit the original."""
        return GrownSpace(self, output_size)


@dataclass(frozen=True)
class _Position:
    """A block of the original at one resolution, and where it stands."""

    stage: int
    number: int
    """The first of a stage is 1."""
    block: Block


class GrownSpace(SearchSpace):
    """The space of `GrownSettings`, for a number of classes.

    Choices, where there is more than one value: `resolution`, and per stage `depth.s`, `kernel_size.s` and `middle.s`.
    """

    def __init__(self, settings: GrownSettings, classes: int) -> None:
        self.settings, self.classes, self.name = settings, classes, settings.name
        self._blocks_at = {side: self._original(side) for side in settings.resolution}
        self.choices = tuple(self._choices())
        self.slots = tuple(self._slots())

    def _original(self, resolution: int) -> dict[str, _Position]:
        """Return the blocks of the original by slot, for images of one side."""
        settings = self.settings
        found = {"stem": _Position(-1, 1, settings.stem.block(resolution, 3))}
        shape = found["stem"].block.output.shape
        for index, stage in enumerate(settings.stages):
            rows = [row for row in stage.blocks for _ in range(row.repeat)]
            for number, row in enumerate(rows, start=1):
                block = row.block(shape[1], shape[0])
                found[f"stage{index + 1}_block{number}"] = _Position(index, number, block)
                shape = block.output.shape
        head = settings.head.model_copy(update={"classes": self.classes})
        found["head"] = _Position(-1, 1, head.block(shape[1], shape[0]))
        return found

    def _choices(self) -> list[Choice]:
        stages, found = self.settings.stages, [Choice("resolution", self.settings.resolution)]
        for name in ("depth", "kernel_size", "middle"):
            for index, stage in enumerate(stages):
                values = getattr(stage, name)
                if values is not None and len(values) > 1:
                    found.append(Choice(f"{name}.{index}", values))
        self._require_original()
        return found

    def _require_original(self) -> None:
        """Raise `UserError` unless the largest values are those of the original, and what is left out can be."""
        places = self._blocks_at[self.settings.resolution[-1]].values()
        for index, stage in enumerate(self.settings.stages):
            where = f"space {self.name}: stages.{index}"
            if stage.depth is not None and stage.depth[-1] != stage.length:
                raise UserError(
                    f"{where}.depth: the largest is {stage.depth[-1]}; the original has {stage.length} blocks"
                )
            if stage.middle[-1] != 100:
                raise UserError(f"{where}.middle: the largest is {stage.middle[-1]}; it is 100 for the original")
            own = max((getattr(p.block, "kernel_size", 0) for p in places if p.stage == index), default=0)
            if stage.kernel_size is not None and stage.kernel_size[-1] != own:
                raise UserError(f"{where}.kernel_size: the largest is {stage.kernel_size[-1]}; the original has {own}")
            first = stage.length if stage.depth is None else stage.depth[0]
            for place in places:
                if place.stage == index and place.number > first and place.block.inputs != (place.block.output,):
                    raise UserError(
                        f"{where}.depth: block {place.number} changes the shape and cannot be left out; the smallest "
                        f"depth is {place.number}"
                    )

    def _slots(self) -> list[Slot]:
        names = {choice.name for choice in self.choices}
        return [
            Slot(name, ("resolution", *self._reads(place, names)))
            for name, place in self._blocks_at[self.settings.resolution[-1]].items()
        ]

    def _reads(self, place: _Position, names: set[str]) -> Sequence[str]:
        """Return the choices that decide which block stands at a place, and whether one does."""
        if place.stage < 0:
            return ()
        stage, reads = self.settings.stages[place.stage], []
        if stage.depth is not None and place.number > stage.depth[0]:
            reads.append(f"depth.{place.stage}")
        smallest = 100 if stage.kernel_size is None else stage.kernel_size[0]
        if _cut(place.block, smallest, 100) != place.block:
            reads.append(f"kernel_size.{place.stage}")
        if _cut(place.block, 1000, stage.middle[0]) != place.block:
            reads.append(f"middle.{place.stage}")
        return [name for name in reads if name in names]

    def block(self, slot: Slot, values: Mapping[str, int]) -> Block | None:
        """Return the block of a slot; None beyond the stage's depth."""
        place = self._blocks_at[values["resolution"]][slot.name]
        stage = place.stage
        if place.number > values.get(f"depth.{stage}", place.number):
            return None
        return _cut(place.block, values.get(f"kernel_size.{stage}", _ANY), values.get(f"middle.{stage}", 100))

    def inputs(self, part: str, arch: Arch) -> tuple[tuple[str, TensorType], ...]:
        """One RGB image at the architecture's resolution."""
        return (("input", TensorType((3, arch["resolution"], arch["resolution"]))),)

    @cached_property
    def named(self) -> Mapping[str, Arch]:
        """The original, which is the largest network."""
        return {"original": self.largest()}


_ANY = 1 << 16
"""A kernel size that no kernel exceeds."""


def _cut(block: Block, kernel_size: int, middle: int) -> Block:
    return block.cut(kernel_size, middle) if isinstance(block, Growable) else block
