"""Search spaces grown from an existing network: the network itself is the largest one, all others are cut out of it.

Blocks are left out at the end of stages, middle channels and kernels become smaller, images too. What passes from block
to block keeps its channels, so that any block can be cut by itself.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from dataclasses import Field as BlockField
from functools import cached_property
from itertools import groupby
from typing import Annotated, Any, Literal, Protocol, get_type_hints, runtime_checkable

import numpy as np
from pydantic import AfterValidator, Field, SerializeAsAny, create_model, model_validator

from nasdeploy.blocks import BLOCKS
from nasdeploy.core.arch import Arch, Choice
from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import Block, TensorType
from nasdeploy.core.settings import ByKind, Settings, parse
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
    """The kind of block, which decides what other keys there are."""
    repeat: int = Field(default=1, ge=1, le=256)
    """The number of such blocks that stand there in a row."""

    @model_validator(mode="after")
    def _is_a_block(self) -> "BlockRow":
        self.block(_LARGE, in_channels=8)
        return self

    def block(self, side: int, in_channels: int) -> Block:
        """Return the block for a feature map `[in_channels, side, side]`."""
        values = {name: getattr(self, name) for name in type(self).model_fields if name not in ("kind", "repeat")}
        made: Callable[..., Block] = BLOCKS[self.kind]
        return made(side=side, in_channels=in_channels, **values)


def _row(kind: str, block: type[Block]) -> type[BlockRow]:
    """Return the settings class of a row of blocks of a class, made from the fields of that class."""
    hints = get_type_hints(block)
    given = [field for field in fields(block) if field.name not in ("side", "in_channels")]
    found: Any = {f.name: (_checked(f, hints[f.name]), ... if f.default is MISSING else f.default) for f in given}
    found["kind"] = (Literal[kind], kind)
    row: type[BlockRow] = create_model(f"{block.__name__}Row", __base__=BlockRow, **found)
    return row


def _checked(field: BlockField[Any], hint: Any) -> Any:
    """Return the type of a block's field with the bounds that its name and default imply."""
    if hint is float:
        return Annotated[float, Field(ge=0)]
    if hint is not int:
        return hint
    least = 0 if field.default == 0 or field.name == "se_channels" else 1
    count = Annotated[int, Field(ge=least, le=65536)]
    return Annotated[count, AfterValidator(_odd)] if "kernel" in field.name else count


def _odd(kernel_size: int) -> int:
    if kernel_size > 0 and kernel_size % 2 == 0:
        raise ValueError("kernel sizes are odd")
    return kernel_size


_ROWS = {kind: _row(kind, block) for kind, block in BLOCKS.items()}
HEADS = {kind: row for kind, row in _ROWS.items() if "classes" in row.model_fields}
"""The settings class of each kind of head."""
FEATURES = {kind: row for kind, row in _ROWS.items() if kind not in HEADS}
"""The settings class of each kind of block that gives a feature map."""
Row = Annotated[SerializeAsAny[BlockRow], ByKind("kind of block", FEATURES, "inverted-residual")]
Head = Annotated[SerializeAsAny[BlockRow], ByKind("kind of head", HEADS, "classifier")]


class GrownStage(Settings):
    """A stage of the original, and what may be cut there; without choices it stays as it is."""

    blocks: tuple[Row, ...] = Field(min_length=1, max_length=256)
    """The blocks of the original, in rows of equal ones."""
    depth: Values | None = None
    """The numbers of its blocks that a network may have; the last of them are left out. By default all."""
    kernel_size: Kernels | None = None
    """The largest kernels that a network has there. By default each block has its own."""
    middle: Values = (100,)
    """The middle channels of its blocks, in per cent of the original's; they are rounded to multiples of 8."""

    @model_validator(mode="after")
    def _is_of_some_length(self) -> "GrownStage":
        if self.length > 256:
            raise ValueError(f"a stage has at most 256 blocks, not {self.length}")
        return self

    @property
    def length(self) -> int:
        """The number of blocks of the original."""
        return sum(row.repeat for row in self.blocks)

    @property
    def rows(self) -> tuple[BlockRow, ...]:
        """The blocks of the original, each in a row of its own."""
        return tuple(row.model_copy(update={"repeat": 1}) for row in self.blocks for _ in range(row.repeat))


class GrownSettings(SpaceSettings):
    """The settings of a space that is grown from a network, as `nasdeploy init --from` writes them."""

    kind: Literal["grown"] = "grown"
    resolution: Values
    """The sides in pixels of the images that networks may take, ascending; the last is the original's."""
    stem: Row
    """The original's first block."""
    stages: tuple[GrownStage, ...] = Field(min_length=1, max_length=32)
    """The original's stages, and what may be cut in each."""
    head: Head
    """The original's last block, which classifies."""

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

    Choices: `resolution`, and `depth.s`, `kernel_size.s` and `middle.s` for every stage s if any of the stages has
    several values; one without then has that of the original.
    """

    def __init__(self, settings: GrownSettings, classes: int) -> None:
        self.settings, self.classes, self.name = settings, classes, settings.name
        self._require_images()
        self._blocks_at = {side: self._original(side) for side in settings.resolution}
        self._require_original()
        self.choices = (Choice("resolution", settings.resolution), *self._stage_choices())
        self.slots = tuple(
            Slot(name, ("resolution", *self._reads(place)))
            for name, place in self._blocks_at[settings.resolution[-1]].items()
        )

    def _original(self, resolution: int) -> dict[str, _Position]:
        """Return the blocks of the original by slot, for images of one side."""
        settings = self.settings
        found = {"stem": _Position(-1, 1, settings.stem.block(resolution, 3))}
        shape = found["stem"].block.output.shape
        for index, stage in enumerate(settings.stages):
            for number, row in enumerate(stage.rows, start=1):
                block = row.block(shape[1], shape[0])
                found[f"stage{index + 1}_block{number}"] = _Position(index, number, block)
                shape = block.output.shape
        head = settings.head.model_copy(update={"classes": self.classes})
        found["head"] = _Position(-1, 1, head.block(shape[1], shape[0]))
        return found

    def stage(self, index: int) -> list[Block]:
        """Return the original's blocks of a stage, for the largest images."""
        places = self._blocks_at[self.settings.resolution[-1]].values()
        return [place.block for place in places if place.stage == index]

    def _require_images(self) -> None:
        """Raise `UserError` for images in which a stride would find a single position to begin with."""
        strides = _LARGE // self._original(_LARGE)["head"].block.inputs[0].shape[1]
        if self.settings.resolution[0] < strides:
            raise UserError(
                f"space {self.name}: resolution {self.settings.resolution[0]} is smaller than the product of the "
                f"strides, {strides}"
            )

    def _require_original(self) -> None:
        """Raise `UserError` unless the largest values are the original's, the smaller ones do something and fit."""
        for index, stage in enumerate(self.settings.stages):
            where, blocks = f"space {self.name}: stages.{index}", self.stage(index)
            own = {"depth": stage.length, "kernel_size": largest_kernel(blocks), "middle": 100}
            for name, value in own.items():
                given = getattr(stage, name) or (value,)
                if given[-1] != value:
                    raise UserError(f"{where}.{name}: the largest is {given[-1]}; the original has {value}")
                if name != "depth" and len(given) > 1 and not any(_cuts(block, name, given[0]) for block in blocks):
                    raise UserError(f"{where}.{name}: no block of the stage becomes smaller by it; leave it out")
            shortest = smallest_depth(blocks)
            if stage.depth is not None and stage.depth[0] < shortest:
                raise UserError(
                    f"{where}.depth: block {shortest} changes the shape and cannot be left out; the smallest depth is "
                    f"{shortest}"
                )

    def _stage_choices(self) -> Iterator[Choice]:
        """Yield the choices of stages: of a name those of all or none, because an architecture's JSON has lists."""
        for name in ("depth", "kernel_size", "middle"):
            values = [self._values(name, index) for index in range(len(self.settings.stages))]
            if any(len(each) > 1 for each in values):
                yield from (Choice(f"{name}.{index}", each) for index, each in enumerate(values))

    def _values(self, name: str, index: int) -> tuple[int, ...]:
        """Return the values of a choice; those of the original if none are given."""
        stage = self.settings.stages[index]
        given: tuple[int, ...] | None = getattr(stage, name)
        if given is not None:
            return given
        return (stage.length if name == "depth" else largest_kernel(self.stage(index)),)

    def _reads(self, place: _Position) -> Iterator[str]:
        """Yield the choices that decide which block stands at a place, or whether one does; and those of one value."""
        for choice in self.choices:
            name, _, stage = choice.name.partition(".")
            if stage != str(place.stage):
                continue
            smallest = choice.values[0]
            decides = place.number > smallest if name == "depth" else _cuts(place.block, name, smallest)
            if decides or len(choice.values) == 1:
                yield choice.name

    def block(self, slot: Slot, values: Mapping[str, int]) -> Block | None:
        """Return the block of a slot; None beyond the stage's depth."""
        place = self._blocks_at[values["resolution"]][slot.name]
        stage = place.stage
        if place.number > values.get(f"depth.{stage}", place.number):
            return None
        return _cut(place.block, values.get(f"kernel_size.{stage}", _ANY), values.get(f"middle.{stage}", 100))

    def stage_of(self, slot: Slot) -> int | None:
        """Return the stage (from 0) that a slot belongs to; None for stem and head."""
        stage = self._blocks_at[self.settings.resolution[-1]][slot.name].stage
        return None if stage < 0 else stage

    def inputs(self, part: str, arch: Arch) -> tuple[tuple[str, TensorType], ...]:
        """One RGB image at the architecture's resolution."""
        return (("input", TensorType((3, arch["resolution"], arch["resolution"]))),)

    @cached_property
    def named(self) -> Mapping[str, Arch]:
        """The original, which is the largest network."""
        return {"original": self.largest()}


_ANY = 1 << 16
"""A kernel size that no kernel exceeds."""
_LARGE = 1 << 12
"""A side at which no stride loses a position by rounding."""


def _cut(block: Block, kernel_size: int, middle: int) -> Block:
    return block.cut(kernel_size, middle) if isinstance(block, Growable) else block


def _cuts(block: Block, name: str, value: int) -> bool:
    """Return whether a value of the choice `kernel_size` or `middle` makes a block smaller."""
    return block != (_cut(block, value, 100) if name == "kernel_size" else _cut(block, _ANY, value))


def largest_kernel(blocks: Iterable[Block]) -> int:
    """Return the largest kernel size of blocks; 1 if none of them has one."""
    return max((getattr(block, f.name) for block in blocks for f in fields(block) if "kernel" in f.name), default=1)


def smallest_depth(blocks: Sequence[Block]) -> int:
    """Return the number of a stage's blocks up to the last one that changes the shape, at least 1."""
    changing = (number for number, block in enumerate(blocks, start=1) if block.inputs != (block.output,))
    return max(changing, default=1)


def cuts_of(
    stem: Mapping[str, Any],
    stages: Sequence[Sequence[Mapping[str, Any]]],
    head: Mapping[str, Any],
    sides: Sequence[int],
) -> dict[str, Any]:
    """Return what may be cut from a network by default: the content of `GrownSettings` without its kind and name.

    The rows are those of the network's blocks, one for each, `sides` the resolutions. In each stage:

    - blocks are left out down to the last one that changes the shape. It is the cheapest cut: an EfficientNet-Lite0
      fine-tuned on photographs was right on 92 %, with one block a stage and nothing trained since on 85 % at 45 % of
      the MACs, with half of each middle's channels on 82 %. Of a long stage eight depths are chosen, evenly;
    - the middle has 50, 75 or 100 per cent of its channels: half is what goes on narrowing costs too much, and steps
      finer than a quarter only lengthen tables, since the stages are narrowed one by one;
    - kernels have 3, 5, .. the original's size: the dearest cut for the MACs that it saves, though not on every device.

    What would change nothing is left out. An EfficientNet-B0 has 54 distinct blocks a resolution: the table of a search
    over ten of them stays below 600.
    """
    resolutions = sorted(set(sides))
    rows = [[dict(row) for row in stage] for stage in stages]
    content = {"name": "original", "resolution": resolutions, "stem": dict(stem), "head": dict(head)}
    whole = parse(GrownSettings, {**content, "stages": [{"blocks": stage} for stage in rows]}, "the original")
    space = GrownSpace(whole, head["classes"])
    cut = [{"blocks": _repeated(stage), **_stage_cuts(space.stage(index))} for index, stage in enumerate(rows)]
    return {"resolution": resolutions, "stem": dict(stem), "stages": cut, "head": dict(head)}


def _stage_cuts(blocks: Sequence[Block]) -> dict[str, list[int]]:
    """Return the default choices of a stage of these blocks that are choices."""
    depths = np.linspace(smallest_depth(blocks), len(blocks), _MOST_DEPTHS).round().astype(int)
    kernels = range(min(3, own := largest_kernel(blocks)), own + 1, 2)
    found = {"depth": np.unique(depths).tolist(), "kernel_size": list(kernels), "middle": [50, 75, 100]}
    return {
        name: values
        for name, values in found.items()
        if len(values) > 1 and (name == "depth" or any(_cuts(block, name, values[0]) for block in blocks))
    }


def _repeated(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of which those that follow their equals are counted."""
    runs = ((row, len(list(equal))) for row, equal in groupby(rows))
    return [{**row, "repeat": count} if count > 1 else dict(row) for row, count in runs]


_MOST_DEPTHS = 8
