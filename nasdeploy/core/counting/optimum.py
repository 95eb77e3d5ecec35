"""The best architecture within a bound on a cost, exactly, where what makes it good is a sum over choices.

Dynamic programming over the stages of a space's chain that keeps, for each state, what no other way to it beats in both
cost and value (Nemhauser and Ullmann, Discrete Dynamic Programming and Capital Allocation, 1969). Beside a bound, what
cannot be completed within it goes as well.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from nasdeploy.core.arch import Arch
from nasdeploy.core.cost_registry import SlotCost
from nasdeploy.core.costs import Floats
from nasdeploy.core.counting.chain import Integers, Stage, chain
from nasdeploy.core.space import SearchSpace

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
