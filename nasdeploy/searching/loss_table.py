"""A table of loss, beside that of latency: what each cut of the largest network costs when it alone is made.

A cut is other values of the choices of one stage, which interact, or of a choice that belongs to no stage. Its loss is
the divergence of the outputs from those of the whole network. Losses of cuts are taken to add up, as those of layers
replaced one by one do in LANA (Molchanov et al. 2021): both latency and loss are then sums over few choices, and the
networks of least predicted loss within a latency are found exactly. Torch-free.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import isfinite
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from nasdeploy.core.arch import Arch, Choice
from nasdeploy.core.costs import Floats
from nasdeploy.core.counting.chain import ValueTable
from nasdeploy.core.errors import UserError
from nasdeploy.core.settings import Settings
from nasdeploy.core.space import Codes, SearchSpace, Slot
from nasdeploy.spaces.mobilenet import Staged
from nasdeploy.store.files import write_json
from nasdeploy.store.records import Count, read_record

ENOUGH = 256
"""The most held-out samples that a divergence is taken on: those of cuts differ by far more than its error on as many,
and there are many cuts."""
REMEDY = "delete it, and it is measured anew"
NO_NUMBER = 1e6
"""The loss of networks whose outputs are no numbers: so large that they are chosen where there are no others."""


@dataclass(frozen=True)
class Cut:
    """Other values of some choices, in an otherwise largest network."""

    values: Mapping[str, int]
    """The values that differ from the largest network's."""
    arch: Arch
    stage: int | None
    """The number of the stage (from 0) that is cut; None where the choice belongs to none."""

    def __str__(self) -> str:
        if self.stage is None:
            return ", ".join(f"{name} {value}" for name, value in self.values.items())
        return f"stage {self.stage + 1}: {self.text}"

    @property
    def text(self) -> str:
        """The values without the stage, for people."""
        return ", ".join(f"{name.partition('.')[0]} {value}" for name, value in self.values.items())


class LossEntry(Settings):
    """The loss of one architecture."""

    arch: str = Field(pattern=r"^[0-9a-f]{12}$")
    """The digest of the largest network with the cut."""
    loss: Annotated[float, Field(ge=0)] | None
    """The mean divergence in nats; None if the outputs were no numbers."""


class LossTable(Settings):
    """Losses of cuts, all measured on the same samples and weights; while it is measured, some of them."""

    schema_version: Literal[1] = 1
    space: str
    """The digest of the search space."""
    supernet: str
    """The digest of the weights, and of all else that outputs depend on."""
    samples: Count
    """The number of held-out samples."""
    whole: Annotated[float, Field(ge=0)] = 0.0
    """The divergence of the supernet's largest network itself, where another one with its weights is the original.

    It is no cut's, and taken off each: added up it would count as often as there are cuts."""
    entries: tuple[LossEntry, ...] = ()

    @property
    def losses(self) -> dict[str, float]:
        """The losses by the architecture's digest, without that of the largest network."""
        return {e.arch: NO_NUMBER if e.loss is None else max(e.loss - self.whole, 0.0) for e in self.entries}

    def with_whole(self, loss: float) -> "LossTable":
        """Return the table with the divergence of the largest network, which is nothing where it is no number."""
        return self.model_copy(update={"whole": max(loss, 0.0) if isfinite(loss) else 0.0})

    def with_loss(self, arch: Arch, loss: float) -> "LossTable":
        """Return the table with one more entry; a loss that is no number, or infinite, is kept as such."""
        # A divergence of nothing is rounded to a little below 0.
        entry = LossEntry(arch=arch.digest, loss=max(loss, 0.0) if isfinite(loss) else None)
        return self.model_copy(update={"entries": (*self.entries, entry)})

    def missing(self, space: SearchSpace) -> list[Cut]:
        """Return the cuts of a space without an entry, of those with one architecture the first."""
        known, found = set(self.losses), dict[str, Cut]()
        for cut in cuts(space):
            if cut.arch.digest not in known:
                found.setdefault(cut.arch.digest, cut)
        return list(found.values())


def groups(space: SearchSpace) -> list[tuple[Choice, ...]]:
    """Return the choices of a space in groups whose values are exchanged together: those of a stage, and each other."""
    return list(_by_place(space).values())


def _by_place(space: SearchSpace) -> dict[str | int, tuple[Choice, ...]]:
    """Return the choices of each stage by its number, and each other by its name.

    Where slots belong to stages, a choice is that of the first slot that reads it: blocks read the width of the stage
    before, too. Elsewhere the choices of a stage are those with the same number, e.g. `depth.2` and `middle.2`.
    """
    first = {name: slot for slot in reversed(space.slots) for name in slot.reads}
    found: dict[str | int, tuple[Choice, ...]] = {}
    for choice in space.choices:
        place = _place(space, choice, first.get(choice.name))
        found[place] = (*found.get(place, ()), choice)
    return found


def _place(space: SearchSpace, choice: Choice, slot: Slot | None) -> str | int:
    if isinstance(space, Staged):
        stage = None if slot is None else space.stage_of(slot)
        return choice.name if stage is None else stage
    number = choice.name.partition(".")[2]
    return int(number) if number.isdecimal() else number or choice.name


def cuts(space: SearchSpace) -> Iterator[Cut]:
    """Yield every combination of other values of each group's choices, in the largest network."""
    largest = space.largest()
    for place, group in _by_place(space).items():
        for values in _combinations(group):
            arch = space.arch({**largest, **values})
            if arch != largest:
                others = {name: value for name, value in values.items() if value != largest[name]}
                yield Cut(others, arch, place if isinstance(place, int) else None)


class AdditiveLoss:
    """Losses of the architectures of a space, predicted as the sums of those of their cuts."""

    def __init__(self, space: SearchSpace, table: LossTable) -> None:
        """Look all cuts up; raises `UserError` if the table is of another space, or not measured to its end."""
        if table.space != space.digest:
            raise UserError(
                f"a table of loss of another search space ({table.space}, not {space.digest} as {space.name} is now); "
                f"{REMEDY}"
            )
        if missing := table.missing(space):
            raise UserError(f"a table of loss without {len(missing)} of its entries; measure them first")
        largest, losses = space.largest(), table.losses
        self.tables: list[ValueTable] = []
        """The losses of the values of each group, with their sign changed: the larger, the better."""
        self._places: list[list[int]] = []
        places = {choice.name: place for place, choice in enumerate(space.choices)}
        for group in groups(space):
            found = [
                0.0 if arch == largest else losses[arch.digest]
                for arch in (space.arch({**largest, **values}) for values in _combinations(group))
            ]
            shape = [len(choice.values) for choice in group]
            self.tables.append(ValueTable(tuple(c.name for c in group), -np.array(found).reshape(shape)))
            self._places.append([places[choice.name] for choice in group])

    def __call__(self, codes: Codes) -> Floats:
        """Return the predicted losses `[n]` of codes `[n, choices]`."""
        total = np.zeros(len(codes))
        for table, places in zip(self.tables, self._places, strict=True):
            total -= table.values[tuple(codes[:, place] for place in places)]
        return total


def _combinations(group: Sequence[Choice]) -> Iterator[dict[str, int]]:
    """Yield all values of a group's choices, the last one's varying fastest."""
    names = [choice.name for choice in group]
    for values in product(*(choice.values for choice in group)):
        yield dict(zip(names, values, strict=True))


def read_loss_table(path: Path) -> LossTable | None:
    """Return the table in a file, None if there is none; raises `UserError` if it is damaged."""
    return read_record(LossTable, path, REMEDY) if path.exists() else None


def write_loss_table(path: Path, table: LossTable) -> None:
    """Write a table whole or not at all."""
    write_json(path, table.model_dump(mode="json"))
