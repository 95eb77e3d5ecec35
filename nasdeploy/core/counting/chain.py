"""A space as a chain of stages, and its cheapest, its dearest and, within a bound on a cost, its best architecture.

In each stage a few choices are decided, given those that later slots still read. Dynamic programming over the stages
treats 10^20 architectures as one table after the other (Bertele and Brioschi, Nonserial Dynamic Programming, 1972),
with choices eliminated in the order of the slots.

Extremes of a cost that is a sum over slots are exact, by variable elimination: a choice is removed by minimising the
sum of the tables that read it; what remains is a table of the choices that it met there. Slots read few choices and
share them with neighbours only, so the tables stay small where enumeration would take 10^11 of them.

The best within a bound, where what makes an architecture good is a sum of functions of few choices each, are exact too:
for each state what no other way to it beats in both cost and value is kept, or fewer others than are wanted (Nemhauser
and Ullmann, Discrete Dynamic Programming and Capital Allocation, 1969). What cannot be completed within the bound goes
as well.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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


def chain(space: SearchSpace, functions: Sequence[SlotCost], more: Sequence[CostTable] = ()) -> list[Stage]:
    """Return the stages from the one state before all slots to the one after them.

    `more` are tables of the same functions to be added, of whatever choices. Choices that nothing reads are in no
    stage.
    """
    stages: list[Stage] = []
    state: tuple[str, ...] = ()
    tables, waiting = cost_tables(space, space.slots, functions), list(more)
    while tables or waiting:
        table = tables.pop(0) if tables else waiting.pop(0)
        joint = tuple(dict.fromkeys([*state, *table.reads]))
        added = [other for other in waiting if set(other.reads) <= set(joint)]
        waiting = [other for other in waiting if not set(other.reads) <= set(joint)]
        later = {name for other in (*tables, *waiting) for name in other.reads}
        kept = tuple(name for name in joint if name in later)
        decided = tuple(name for name in joint if name not in later)
        stages.append(_step(space, state, [table, *added], kept, decided))
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
    space: SearchSpace,
    state: tuple[str, ...],
    tables: Sequence[CostTable],
    kept: tuple[str, ...],
    decided: tuple[str, ...],
) -> Stage:
    sizes = {choice.name: len(choice.values) for choice in space.choices}
    places = {choice.name: place for place, choice in enumerate(space.choices)}
    names, shape = (*kept, *decided), [sizes[name] for name in (*kept, *decided)]
    before = np.arange(prod(sizes[name] for name in state), dtype=np.int64).reshape([sizes[name] for name in state])
    states, functions = prod(sizes[name] for name in kept), tables[0].values.shape[-1]
    source = np.broadcast_to(aligned(before, state, names), shape)
    costs = np.zeros([*shape, functions])
    for table in tables:
        costs += aligned(table.values, table.reads, names)
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
    named = zip(space.choices, terms, strict=True)
    return next(
        iter(best_by_tables(space, cost, bound, [ValueTable((choice.name,), term) for choice, term in named])), None
    )


@dataclass(frozen=True)
class ValueTable:
    """What is added to the value of an architecture, `[values of each choice that is read ...]`."""

    reads: tuple[str, ...]
    values: Floats


def best_by_tables(
    space: SearchSpace, cost: SlotCost, bound: float, tables: Sequence[ValueTable], count: int = 1
) -> list[Optimum]:
    """Return the `count` architectures of the largest sums of tables within a cost's bound, the best first.

    Of equal ones the cheaper come first. Fewer where there are no more, or where several combinations of values are one
    architecture. See `best_by_choices` for what is exact, and for time and memory, which grow with `count`.
    """
    values = [
        CostTable(table.reads, np.stack([np.zeros_like(table.values), table.values], axis=-1)) for table in tables
    ]
    stages = chain(space, [cost, lambda slot, block: 0.0], values)
    return _best(space, stages, bound, count)


def _best(space: SearchSpace, stages: Sequence[Stage], bound: float, count: int) -> list[Optimum]:
    fronts = list(_fronts(stages, bound + _ROUNDING * abs(bound), count))
    (last,) = fronts[-1]
    chosen = np.argsort(-last.values, kind="stable")[:count]
    codes = np.zeros((len(chosen), len(space.choices)), dtype=np.int16)
    for row, place in zip(codes, chosen.tolist(), strict=True):
        state = 0
        for stage, states in zip(reversed(stages), reversed(fronts), strict=True):
            member, place = int(states[state].members[place]), int(states[state].places[place])
            row[list(stage.decided)] = stage.codes[member]
            state = int(stage.source[state, member])
    found: dict[Arch, Optimum] = {}
    for arch, place in zip(space.decode(codes), chosen.tolist(), strict=True):
        found.setdefault(arch, Optimum(arch, float(last.costs[place]), float(last.values[place])))
    return list(found.values())


@dataclass(frozen=True)
class _Front:
    """Ways `[n]` to a state that fewer others beat than are wanted, ascending in cost (of one, in value too)."""

    costs: Floats
    values: Floats
    members: npt.NDArray[np.int32]
    """The member of the stage that leads to the state."""
    places: npt.NDArray[np.int32]
    """The place in the front of the state before."""


def _fronts(stages: Sequence[Stage], bound: float, count: int) -> Iterator[list[_Front]]:
    """Yield, after each stage, the fronts of its states."""
    start = np.zeros(1, dtype=np.int32)
    fronts = [_Front(np.zeros(1), np.zeros(1), start, start)]
    for stage, least in zip(stages, _least_to_come(stages), strict=True):
        fronts = [_front(stage, state, fronts, bound - least[state], count) for state in range(stage.states)]
        yield fronts


def _least_to_come(stages: Sequence[Stage]) -> list[Floats]:
    """Return, after each stage, for each state `[states]` the least that later stages add."""
    least = [np.zeros(1)]
    for stage in reversed(stages[1:]):
        before = np.full(int(stage.source.max()) + 1, np.inf)
        np.minimum.at(before, stage.source, stage.costs[..., 0] + least[-1][:, None])
        least.append(before)
    return least[::-1]


def _front(stage: Stage, state: int, before: Sequence[_Front], bound: float, count: int) -> _Front:
    """Return what of all ways to a state costs no more than the bound and may be among the `count` best."""
    sources = [before[source] for source in stage.source[state].tolist()]
    lengths = [len(source.costs) for source in sources]
    members = np.repeat(np.arange(len(sources), dtype=np.int32), lengths)
    costs, values = stage.costs[state][members].T
    costs = costs + np.concatenate([source.costs for source in sources])
    values = values + np.concatenate([source.values for source in sources])
    within = np.flatnonzero(costs <= bound)
    order = within[np.lexsort((-values[within], costs[within]))]
    kept = order[_records(values[order]) if count == 1 else _among_best(values[order], count)]
    places = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
    return _Front(costs[kept], values[kept], members[kept], places[kept])


def _records(values: Floats) -> Integers:
    """Return places of those of `values` `[n]` that are larger than all before."""
    before = np.concatenate([[-np.inf], np.maximum.accumulate(values)[:-1]])[: len(values)]
    return np.flatnonzero(values > before)


def _among_best(values: Floats, count: int) -> Integers:
    """Return places of all of `values` `[n]` that fewer than `count` of those before reach, and of some others."""
    best, kept = np.full(count, -np.inf), [np.zeros(0, dtype=np.int64)]
    size = max(count, _AT_ONCE)
    for start in range(0, len(values), size):
        part = values[start : start + size]
        kept.append(start + np.flatnonzero(part > best.min()))
        best = np.partition(np.concatenate([best, part]), -count)[-count:]
    return np.concatenate(kept)


_AT_ONCE = 256
"""Ways that are compared with those before them, and not with each other."""
