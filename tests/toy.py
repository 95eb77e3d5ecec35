"""A search space small enough to enumerate, whose costs can be added up by hand."""

from collections.abc import Mapping
from dataclasses import dataclass

from nasdeploy.core.arch import Arch, Choice
from nasdeploy.core.plan import Block, TensorType
from nasdeploy.core.space import PartSpec, SearchSpace, Slot


@dataclass(frozen=True)
class Square(Block):
    """A dense layer `[inside] -> [outside]` of a made-up kind."""

    inside: int
    outside: int
    kind: int
    doubled: bool = False

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        return (TensorType((self.inside,)),)

    @property
    def output(self) -> TensorType:
        return TensorType((self.outside,))

    @property
    def macs(self) -> int:
        return self.inside * self.outside * self.kind * (1 + self.doubled)

    @property
    def params(self) -> int:
        return self.inside * self.outside + self.kind


class ToySpace(SearchSpace):
    """Two stages of width `width.0` and `width.1`; the second has up to three layers of `kind.1`, or none at all.

    The third layer is a part of its own, which runs three times; so are those after it, which run once.
    `twist` is read by the third layer only, `skip` decides about the last one: at 1 it is absent.
    """

    name = "toy"
    choices = (
        Choice("width.0", (2, 3)),
        Choice("width.1", (4, 5, 7)),
        Choice("depth", (1, 2, 3)),
        Choice("kind.0", (1, 2)),
        Choice("kind.1", (1, 2, 5)),
        Choice("twist", (0, 1)),
        Choice("skip", (0, 1)),
    )
    slots = (
        Slot("first", ("width.0", "kind.0")),
        Slot("second", ("width.0", "width.1", "kind.1")),
        Slot("third", ("kind.1", "depth", "width.1"), PartSpec("loop", runs=3)),
        Slot("fourth", ("width.1", "depth", "twist", "kind.1"), PartSpec("end")),
        Slot("last", ("skip", "width.1"), PartSpec("end")),
    )

    def block(self, slot: Slot, values: Mapping[str, int]) -> Block | None:
        if slot.name == "first":
            return Square(8, values["width.0"], values["kind.0"])
        if slot.name == "second":
            return Square(values["width.0"], values["width.1"], values["kind.1"])
        if slot.name == "last":
            return None if values["skip"] else Square(values["width.1"], values["width.1"], 1)
        if values["depth"] < {"third": 2, "fourth": 3}[slot.name]:
            return None
        return Square(values["width.1"], values["width.1"], values["kind.1"], bool(values.get("twist")))

    def inputs(self, part: str, arch: Arch) -> tuple[tuple[str, TensorType], ...]:
        return (("input", TensorType((8 if part == "network" else arch["width.1"],))),)
