"""The cheapest and the dearest architecture of a space, exactly, for a cost that is a sum over slots.

Variable elimination (Bertele and Brioschi, Nonserial Dynamic Programming, 1972): a choice is removed by minimising the
sum of the tables that read it; what remains is a table of the choices that it met there. Slots read few choices and
share them with neighbours only, so the tables stay small where enumeration would take 10^11 of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from nasdeploy.core.arch import Arch
from nasdeploy.core.cost_registry import SlotCost
from nasdeploy.core.costs import Floats, aligned, slot_table
from nasdeploy.core.space import SearchSpace


@dataclass(frozen=True)
class Extreme:
    """An architecture and its cost."""

    cost: float
    arch: Arch


def extremes(space: SearchSpace, cost: SlotCost) -> tuple[Extreme, Extreme]:
    """Return the cheapest and the dearest architecture of `space`; `cost` is summed over present slots."""
    tables = [_Table(slot.reads, slot_table(space, slot, [cost])[..., 0]) for slot in space.slots]
    cheapest, dearest = _cheapest(space, tables), _cheapest(space, [_Table(t.reads, -t.values) for t in tables])
    return cheapest, Extreme(-dearest.cost, dearest.arch)


@dataclass(frozen=True)
class _Table:
    """A function of some choices: one axis for each, in the order of `reads`."""

    reads: tuple[str, ...]
    values: Floats


def _cheapest(space: SearchSpace, tables: list[_Table]) -> Extreme:
    sizes = {choice.name: len(choice.values) for choice in space.choices}
    left = set(sizes)
    eliminated: list[tuple[str, _Table]] = []
    while left:
        name = min(sorted(left), key=lambda choice: prod(sizes[other] for other in _met(choice, tables)))
        joint = _sum((name, *_met(name, tables)), [table for table in tables if name in table.reads], sizes)
        eliminated.append((name, joint))
        tables = [table for table in tables if name not in table.reads]
        tables.append(_Table(joint.reads[1:], joint.values.min(axis=0)))
        left.remove(name)
    places: dict[str, int] = {}
    for name, joint in reversed(eliminated):
        others: tuple[Any, ...] = tuple(places[other] for other in joint.reads[1:])
        places[name] = int(joint.values[(slice(None), *others)].argmin())
    arch = space.arch({choice.name: choice.values[places[choice.name]] for choice in space.choices})
    return Extreme(float(sum(table.values for table in tables)), arch)


def _met(name: str, tables: Sequence[_Table]) -> tuple[str, ...]:
    """Return the other choices in the tables that read `name`."""
    return tuple(dict.fromkeys(n for table in tables if name in table.reads for n in table.reads if n != name))


def _sum(reads: tuple[str, ...], tables: Sequence[_Table], sizes: dict[str, int]) -> _Table:
    total = np.zeros([sizes[name] for name in reads])
    for table in tables:
        total += aligned(table.values, table.reads, reads)
    return _Table(reads, total)
