"""A space as a chain of stages: in each a few choices are decided, given those that later slots still read.

Dynamic programming over the stages treats 10^20 architectures as one table after the other (Bertele and Brioschi,
Nonserial Dynamic Programming, 1972), with choices eliminated in the order of the slots.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np
import numpy.typing as npt

from nasdeploy.core.cost_registry import SlotCost
from nasdeploy.core.costs import CostTable, Floats, aligned, cost_tables
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
