"""A space as a chain of stages, and its cheapest, its dearest and, within a bound on a cost, its best architecture.

In each stage a few choices are decided, given those that later slots still read. Dynamic programming over the stages
treats 10^20 architectures as one table after the other (Bertele and Brioschi, Nonserial Dynamic Programming, 1972),
with choices eliminated in the order of the slots.

Extremes of a cost that is a sum over slots are exact, by variable elimination: a choice is removed by minimising the
sum of the tables that read it; what remains is a table of the choices that it met there. Slots read few choices and
share them with neighbours only, so the tables stay small where enumeration would take 10^11 of them.

The best within a bound, where what makes an architecture good is a sum over choices, is exact too: for each state what
no other way to it beats in both cost and value is kept (Nemhauser and Ullmann, Discrete Dynamic Programming and Capital
Allocation, 1969). What cannot be completed within the bound goes as well.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from nasdeploy.core.arch import Arch
from nasdeploy.core.cost_registry import SlotCost
from nasdeploy.core.costs import CostTable, Floats, aligned, cost_tables, slot_table
from nasdeploy.core.space import Codes, SearchSpace

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Stage:
    """The way from the states before to the states after it.

    A state is a combination of the choices that are still read.
    """

    decided: tuple[int, ...]
    """Places of the choices that no later slot reads."""
    codes: Codes
    """`[members, decided]`: their values, a member being a combination of them."""
    source: Integers
    """`[states after, members]`: the state before."""
    costs: Floats
    """`[states after, members, functions]`: what the stage's slots add."""

    @property
    def states(self) -> int:
        """Number of states after it."""
        return len(self.source)


def chain(space: SearchSpace, functions: Sequence[SlotCost]) -> list[Stage]:
    """Return the stages from the one state before all slots to the one after them.

    Choices that no slot reads are in none.
    """
    stages: list[Stage] = []
    state: tuple[str, ...] = ()
    tables = cost_tables(space, space.slots, functions)
    for number, table in enumerate(tables):
        later = {name for other in tables[number + 1 :] for name in other.reads}
        joint = tuple(dict.fromkeys([*state, *table.reads]))
        kept = tuple(name for name in joint if name in later)
        stages.append(_step(space, state, table, kept, tuple(name for name in joint if name not in later)))
        state = kept
    return stages


def span(stages: Sequence[Stage]) -> tuple[float, float]:
    """Return the least and the largest sum of the first function's costs over all stages."""
    least, largest = np.zeros(1), np.zeros(1)
    for stage in stages:
        least = (least[stage.source] + stage.costs[..., 0]).min(axis=1)
        largest = (largest[stage.source] + stage.costs[..., 0]).max(axis=1)
    return float(least[0]), float(largest[0])


def unread(space: SearchSpace) -> list[int]:
    """Return places of the choices that no slot reads."""
    read = {name for slot in space.slots for name in slot.reads}
    return [place for place, choice in enumerate(space.choices) if choice.name not in read]


def combinations(sizes: Sequence[int]) -> Codes:
    """Return all combinations `[product, sizes]` of places, the last one varying fastest."""
    return np.array(list(product(*map(range, sizes))), dtype=np.int16).reshape(-1, len(sizes))


def _step(
    space: SearchSpace, state: tuple[str, ...], table: CostTable, kept: tuple[str, ...], decided: tuple[str, ...]
) -> Stage:
    sizes = {choice.name: len(choice.values) for choice in space.choices}
    places = {choice.name: place for place, choice in enumerate(space.choices)}
    names, shape = (*kept, *decided), [sizes[name] for name in (*kept, *decided)]
    before = np.arange(prod(sizes[name] for name in state), dtype=np.int64).reshape([sizes[name] for name in state])
    states, functions = prod(sizes[name] for name in kept), table.values.shape[-1]
    source = np.broadcast_to(aligned(before, state, names), shape)
    costs = np.broadcast_to(aligned(table.values, table.reads, names), [*shape, functions])
    return Stage(
        tuple(places[name] for name in decided),
        combinations([sizes[name] for name in decided]),
        source.reshape(states, -1),
        costs.reshape(states, -1, functions),
    )


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


_ROUNDING = 1e-13
"""Relative difference between sums over slots in different orders; a bound is kept to within it."""


@dataclass(frozen=True)
class Optimum:
    """The architecture of the largest value within a bound; of several, one of the cheapest."""

    arch: Arch
    cost: float
    value: float


def best_by_choices(space: SearchSpace, cost: SlotCost, bound: float, terms: Sequence[Floats]) -> Optimum | None:
    """Return the architecture of the largest sum of `terms`, `[values]` for each choice, within a cost's bound.

    Exact where every network reads every choice; where some do not, a choice that is not read counts as if it were.
    None if there is none. Takes time and memory in proportion to the number of unbeaten pairs of cost and sum, which is
    below 10^5 in a space of 10^20 architectures.
    """
    stages = chain(space, [cost, lambda slot, block: 0.0])
    return _best(space, [_with_terms(stage, terms) for stage in stages], bound)


def _with_terms(stage: Stage, terms: Sequence[Floats]) -> Stage:
    """Return the stage with the terms of the choices that it decides as what it adds to the value."""
    added = sum((terms[place][stage.codes[:, n]] for n, place in enumerate(stage.decided)), np.zeros(len(stage.codes)))
    costs = stage.costs.copy()
    costs[..., 1] += added
    return replace(stage, costs=costs)


def _best(space: SearchSpace, stages: Sequence[Stage], bound: float) -> Optimum | None:
    fronts = list(_fronts(stages, bound + _ROUNDING * abs(bound)))
    (last,) = fronts[-1]
    if not len(last.costs):
        return None
    codes = np.zeros((1, len(space.choices)), dtype=np.int16)
    place, state = len(last.costs) - 1, 0
    for stage, states in zip(reversed(stages), reversed(fronts), strict=True):
        member, place = int(states[state].members[place]), int(states[state].places[place])
        codes[0, stage.decided] = stage.codes[member]
        state = int(stage.source[state, member])
    (arch,) = space.decode(codes)
    return Optimum(arch, float(last.costs[-1]), float(last.values[-1]))


@dataclass(frozen=True)
class _Front:
    """Unbeaten ways `[n]` to a state, ascending in cost and in value."""

    costs: Floats
    values: Floats
    members: npt.NDArray[np.int32]
    """The member of the stage that leads to the state."""
    places: npt.NDArray[np.int32]
    """The place in the front of the state before."""


def _fronts(stages: Sequence[Stage], bound: float) -> Iterator[list[_Front]]:
    """Yield, after each stage, the fronts of its states."""
    start = np.zeros(1, dtype=np.int32)
    fronts = [_Front(np.zeros(1), np.zeros(1), start, start)]
    for stage, least in zip(stages, _least_to_come(stages), strict=True):
        fronts = [_front(stage, state, fronts, bound - least[state]) for state in range(stage.states)]
        yield fronts


def _least_to_come(stages: Sequence[Stage]) -> list[Floats]:
    """Return, after each stage, for each state `[states]` the least that later stages add."""
    least = [np.zeros(1)]
    for stage in reversed(stages[1:]):
        before = np.full(int(stage.source.max()) + 1, np.inf)
        np.minimum.at(before, stage.source, stage.costs[..., 0] + least[-1][:, None])
        least.append(before)
    return least[::-1]


def _front(stage: Stage, state: int, before: Sequence[_Front], bound: float) -> _Front:
    """Return what of all ways to a state costs no more than the bound and is not beaten."""
    sources = [before[source] for source in stage.source[state].tolist()]
    lengths = [len(source.costs) for source in sources]
    members = np.repeat(np.arange(len(sources), dtype=np.int32), lengths)
    costs, values = stage.costs[state][members].T
    costs = costs + np.concatenate([source.costs for source in sources])
    values = values + np.concatenate([source.values for source in sources])
    within = np.flatnonzero(costs <= bound)
    order = within[np.lexsort((-values[within], costs[within]))]
    kept = order[_records(values[order])]
    places = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
    return _Front(costs[kept], values[kept], members[kept], places[kept])


def _records(values: Floats) -> Integers:
    """Return places of those of `values` `[n]` that are larger than all before."""
    before = np.concatenate([[-np.inf], np.maximum.accumulate(values)[:-1]])[: len(values)]
    return np.flatnonzero(values > before)
