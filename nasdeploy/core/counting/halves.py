"""Exact counting and uniform sampling in an interval of a cost, for spaces that fall into two halves.

Where few choices are read on both sides of a cut through the slots, the costs of each half are enumerated given these
choices: for `alphanet`, cut after stage 4, 663,552 and 82,944 of them for each of 8 resolutions and widths, instead of
4.4 x 10^11. The larger half is sorted; for each combination of the smaller one a binary search gives the range of those
that complete it to a cost in the interval. An architecture in the interval is then an integer below their number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, frexp, prod

import numpy as np

from nasdeploy.core.costs import CostTable, SlotCost, aligned, cost_tables
from nasdeploy.core.counting.chain import Integers
from nasdeploy.core.space import Codes, SearchSpace, Slot

_LARGEST = 2**23
"""Costs of both halves that are kept: 64 MB, and twice as much while they are made."""

_BITS = 61
"""Of a cost and the number of its combination together; with one more for differences of costs, and the sign."""


@dataclass(frozen=True)
class Cut:
    """Choices that are read on `both` sides of a cut, and on one side only; `many` has the more combinations."""

    both: tuple[str, ...]
    many: tuple[str, ...]
    few: tuple[str, ...]
    slots_of_many: tuple[Slot, ...]
    slots_of_few: tuple[Slot, ...]


def find_cut(space: SearchSpace) -> Cut | None:
    """The cut with the fewest costs to enumerate; None if that is too many for each cut."""
    cuts = [_cut(space, place) for place in range(1, len(space.slots))]
    best = min(cuts, key=lambda cut: _rows(space, cut), default=None)
    return best if best is not None and _rows(space, best) <= _LARGEST else None


class Halves:
    """The costs of both halves of a space in ascending order, in integer multiples of a small unit.

    The unit is a power of two, about 10^-12 of the largest cost: integers up to 10^12 are exact, and others that are as
    close as that to a bound count as within. Each cost has the number of its combination in its lower bits, so that
    both are sorted as one.
    """

    def __init__(self, space: SearchSpace, cost: SlotCost, cut: Cut) -> None:
        self._space, self._cut = space, cut
        many = cost_tables(space, cut.slots_of_many, [cost])
        few = cost_tables(space, cut.slots_of_few, [cost])
        self._shift = prod(_sizes(space, cut.many)).bit_length()
        # Below the precision of floats, whose sums are whole numbers of units if their terms are.
        self._bits = min(_BITS - self._shift, 50)
        self._unit = _unit([*many, *few], self._bits)
        self._slack = _slack([*many, *few], self._unit)
        self._many, self._few = self._sorted(many, cut.many), self._sorted(few, cut.few)

    def within(self, low: float, high: float) -> "HalvesInterval":
        """The combinations of values with a cost from `low` to `high`, both included; either may be infinite."""
        first = self._below(ceil(self._units(low)) - self._slack)
        end = self._below(floor(self._units(high)) + self._slack + 1)
        return HalvesInterval(self, first.ravel(), (end - first).clip(min=0).cumsum())

    def codes(self, both: Integers, many: Integers, few: Integers) -> Codes:
        """Codes `[n, choices]` of combinations, numbered in ascending cost, of both halves given `both`."""
        numbers = 2**self._shift - 1
        by_name = {
            **_unravelled(self._space, self._cut.both, both),
            **_unravelled(self._space, self._cut.many, self._many[both, many] & numbers),
            **_unravelled(self._space, self._cut.few, self._few[both, few] & numbers),
        }
        return np.stack([by_name[choice.name] for choice in self._space.choices], axis=1).astype(np.int16)

    def _sorted(self, tables: Sequence[CostTable], own: tuple[str, ...]) -> Integers:
        """`[combinations of both, combinations of own]`: costs with the numbers of these, each row ascending."""
        names = (*self._cut.both, *own)
        total = np.zeros(_sizes(self._space, names), dtype=np.int64)
        for table in tables:
            total += aligned(np.rint(table.values[..., 0] / self._unit).astype(np.int64), table.reads, names)
        rows = total.reshape(prod(_sizes(self._space, self._cut.both)), -1)
        rows <<= self._shift
        rows += np.arange(rows.shape[1])
        rows.sort(axis=1)
        return rows

    def _below(self, limit: int) -> Integers:
        """`[both, few]`: how many of the larger half have together with one of the smaller less than the limit."""
        rest = (limit - (self._few >> self._shift)) << self._shift
        return np.stack([np.searchsorted(many, row) for many, row in zip(self._many, rest, strict=True)])

    def _units(self, bound: float) -> float:
        largest = 2.0**self._bits
        return min(max(bound / self._unit, -largest), largest)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of combinations of the choices read on both sides, and of the smaller half given these."""
        return self._few.shape


@dataclass(frozen=True)
class HalvesInterval:
    """The combinations of values with a cost in an interval, in order of those of the smaller half."""

    halves: Halves
    first: Integers
    """`[both x few]`: place in the larger half of the first one that completes the smaller half's."""
    cumulative: Integers
    """`[both x few]`: how many complete this one of the smaller half or an earlier one."""

    exact = True
    standard_error = 0.0

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.cumulative[-1])

    def sample(self, count: int, rng: np.random.Generator) -> Codes:
        """Codes `[count, choices]`, drawn uniformly with repetition; none if the interval is empty."""
        if not self.count:
            return self.halves.codes(*np.zeros((3, 0), dtype=np.int64))
        drawn = rng.integers(self.count, size=count)
        place = np.searchsorted(self.cumulative, drawn, side="right")
        before = np.where(place > 0, self.cumulative[place - 1], 0)
        both, few = np.divmod(place, self.halves.shape[1])
        return self.halves.codes(both, self.first[place] + drawn - before, few)


def _cut(space: SearchSpace, place: int) -> Cut:
    """The cut before the slot at `place`. Choices that no slot reads are in the larger half."""
    sides = [space.slots[:place], space.slots[place:]]
    reads = [{name for slot in side for name in slot.reads} for side in sides]
    own = [[c.name for c in space.choices if c.name in reads[n] and c.name not in reads[1 - n]] for n in (0, 1)]
    m = int(prod(_sizes(space, own[1])) > prod(_sizes(space, own[0])))
    unread = [choice.name for choice in space.choices if choice.name not in reads[0] | reads[1]]
    both = [choice.name for choice in space.choices if choice.name in reads[0] & reads[1]]
    return Cut(tuple(both), (*own[m], *unread), tuple(own[1 - m]), sides[m], sides[1 - m])


def _rows(space: SearchSpace, cut: Cut) -> int:
    """How many costs there are to enumerate."""
    return prod(_sizes(space, cut.both)) * (prod(_sizes(space, cut.many)) + prod(_sizes(space, cut.few)))


def _sizes(space: SearchSpace, names: Sequence[str]) -> list[int]:
    return [len(space.values_of[name]) for name in names]


def _unravelled(space: SearchSpace, names: Sequence[str], numbers: Integers) -> dict[str, Integers]:
    """Places of the values of choices, of combinations of these by their number."""
    # A choice of one value more, because NumPy knows no numbers of combinations of nothing.
    return dict(zip(names, np.unravel_index(numbers, [*_sizes(space, names), 1]), strict=False))


def _unit(tables: Sequence[CostTable], bits: int) -> float:
    """A power of two such that every sum is below 2^bits of it."""
    largest = sum(float(np.abs(table.values).max()) for table in tables)
    return 2.0 ** (frexp(largest)[1] - bits + 1)


def _slack(tables: Sequence[CostTable], unit: float) -> int:
    """Units by which a sum in units may differ from one in another order; 0 if all are whole numbers of units."""
    off = sum(float(np.abs(table.values / unit - np.rint(table.values / unit)).max()) for table in tables)
    return ceil(off) + 1 if off else 0
