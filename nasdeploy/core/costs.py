"""Costs (MACs, parameters, latency) of many architectures at once, by look-up on integer arrays.

A cost is a sum over slots of a function of the slot's block. Slots that read the same few choices are merged into one
table, so that an architecture of 39 slots costs about nine look-ups. Sums are exact in float64 up to 2**53.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from nasdeploy.core.cost_registry import NETWORK_COSTS, SlotCost
from nasdeploy.core.space import Codes, SearchSpace, Slot

Floats = npt.NDArray[np.float64]
T = TypeVar("T", bound=np.generic)

_LARGEST_TABLE = 4096
"""Rows of a merged table: small enough to stay in the processor's first cache, beyond which merging stops paying."""

_CHUNK = 8192


@dataclass(frozen=True)
class CostTable:
    """Sums of costs over some slots, as a function of the choices that these read."""

    reads: tuple[str, ...]
    values: Floats
    """`[values of each choice that is read ..., costs]`."""


class Costs:
    """Scores codes `[n, choices]` into `[n, costs]`, one column for each of the given functions.

    `combine` is `np.add` for costs that are sums over slots, or `np.maximum` for the largest of them.
    """

    def __init__(self, space: SearchSpace, functions: Sequence[SlotCost], combine: np.ufunc = np.add) -> None:
        self._combine = combine
        tables = cost_tables(space, space.slots, functions, combine)
        self._rows = [table.values.reshape(-1, len(functions)) for table in tables]
        self._strides = np.stack([_strides(space, table.reads) for table in tables], axis=1)

    def __call__(self, codes: Codes) -> Floats:
        """Costs `[n, costs]` of codes `[n, choices]`."""
        return np.concatenate([self._chunk(codes[i : i + _CHUNK]) for i in range(0, max(len(codes), 1), _CHUNK)])

    def _chunk(self, codes: Codes) -> Floats:
        # A matrix product in float32 is the fastest way to mixed-radix indices; exact below 2**24.
        rows = (codes.astype(np.float32) @ self._strides).astype(np.intp)
        total = self._rows[0][rows[:, 0]]
        looked_up = np.empty_like(total)
        for place, table in enumerate(self._rows[1:], start=1):
            # Clipping what is never outside spares a check of each index.
            np.take(table, rows[:, place], axis=0, out=looked_up, mode="clip")
            self._combine(total, looked_up, out=total)
        return total


class NetworkCosts:
    """Scores many architectures at once: costs that are sums over slots, then all of `NETWORK_COSTS`."""

    def __init__(self, space: SearchSpace, width: int, sums: Sequence[SlotCost] = ()) -> None:
        """Prepare the look-up of `sums`, in this order, and of the network's costs in numbers of `width` bytes."""
        self._space, self._width = space, width
        self.slot_costs = {name: cost.of_block(width) for name, cost in NETWORK_COSTS.items() if cost.of_block}
        added = [name for name in self.slot_costs if NETWORK_COSTS[name].add]
        self._peaks = [name for name in self.slot_costs if name not in added]
        self.names = (*added, *self._peaks)
        """The network's costs in the order of their columns."""
        self._sums = Costs(space, [*sums, *(self.slot_costs[name] for name in added)])
        # In a chain nothing waits, so that the peak is the largest over slots, which is looked up for many at once.
        self._largest = Costs(space, [self.slot_costs[name] for name in self._peaks], np.maximum)

    def __call__(self, codes: Codes) -> Floats:
        """Return costs `[n, sums + network costs]` of codes `[n, choices]`."""
        peaks = self._largest(codes) if self._space.is_chain else self._of_plans(codes)
        return np.concatenate([self._sums(codes), peaks], axis=1)

    def _of_plans(self, codes: Codes) -> Floats:
        plans = [self._space.plan(arch) for arch in self._space.decode(codes)]
        functions = [of for name in self._peaks if (of := NETWORK_COSTS[name].of_plan) is not None]
        found = [[of(plan, self._width) for of in functions] for plan in plans]
        return np.array(found).reshape(len(plans), len(functions))


def cost_tables(
    space: SearchSpace, slots: Sequence[Slot], functions: Sequence[SlotCost], combine: np.ufunc = np.add
) -> list[CostTable]:
    """Few tables that together are the costs of all `slots`, one column for each of the functions."""
    return [_merged(space, group, functions, combine) for group in _groups(space, slots)]


def _groups(space: SearchSpace, slots: Sequence[Slot]) -> list[list[Slot]]:
    """Neighbouring slots, as long as the combinations of all that they read stay below the largest table."""
    groups: list[list[Slot]] = []
    for slot in slots:
        together = _reads([*groups[-1], slot]) if groups else ()
        if groups and prod(len(space.values_of[name]) for name in together) <= _LARGEST_TABLE:
            groups[-1].append(slot)
        else:
            groups.append([slot])
    return groups


def slot_table(space: SearchSpace, slot: Slot, functions: Sequence[SlotCost]) -> Floats:
    """Costs `[values of each choice that the slot reads ..., functions]` of its blocks; 0 where it has none."""
    values = [[f(slot, block) if block else 0.0 for f in functions] for block in space.blocks_of(slot)]
    return np.array(values).reshape([*(len(space.values_of[name]) for name in slot.reads), len(functions)])


def aligned(values: npt.NDArray[T], reads: Sequence[str], names: Sequence[str]) -> npt.NDArray[T]:
    """`values`, whose first axes are those of `reads`, with an axis for each of `names`, of length 1 if not read."""
    order = sorted(range(len(reads)), key=lambda axis: names.index(reads[axis]))
    turned = values.transpose([*order, *range(len(reads), values.ndim)])
    absent = [axis for axis, name in enumerate(names) if name not in reads]
    return np.expand_dims(turned, tuple(absent))


def _reads(slots: Sequence[Slot]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for slot in slots for name in slot.reads))


def _merged(space: SearchSpace, slots: Sequence[Slot], functions: Sequence[SlotCost], combine: np.ufunc) -> CostTable:
    names = _reads(slots)
    total = np.zeros([*(len(space.values_of[name]) for name in names), len(functions)])
    for slot in slots:
        combine(total, aligned(slot_table(space, slot, functions), slot.reads, names), out=total)
    return CostTable(names, total)


def _strides(space: SearchSpace, reads: Sequence[str]) -> npt.NDArray[np.float32]:
    """`[choices]`: the row of an architecture in a table of all that is read is codes @ strides."""
    sizes = [len(space.values_of[name]) for name in reads]
    strides = np.zeros(len(space.choices), dtype=np.float32)
    place = {choice.name: index for index, choice in enumerate(space.choices)}
    for axis, name in enumerate(reads):
        strides[place[name]] = prod(sizes[axis + 1 :])
    return strides
