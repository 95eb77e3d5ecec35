"""Uniform sampling in an interval of a cost, and evenly over its range, by dynamic programming on rounded costs.

The costs of each stage of a space's chain are rounded to 1/20,000 of the range, and for each state the number of ways
to reach it at each rounded cost is kept. Walking the chain backwards draws from all ways to a rounded cost uniformly.
All rounded costs that an interval's architectures may have are drawn from, and what misses the interval is drawn again.
"""

from collections.abc import Iterator
from functools import cached_property
from math import ceil, floor

import numpy as np
import numpy.typing as npt

from nasdeploy.core.cost_registry import SlotCost
from nasdeploy.core.costs import Costs, Floats
from nasdeploy.core.counting.chain import Integers, Stage, chain, span, unread
from nasdeploy.core.randomness import generator
from nasdeploy.core.space import Codes, SearchSpace

_STEPS = 20_000
"""The number of steps into which the range of costs is divided."""

_WEIGHTS = 2**20
"""Weights of members that are looked at together: 8 MB."""

_ESTIMATED_FROM = 2_000
"""Draws at the ends of an interval, which tell how much of them lies inside."""

_TRIES = 1000
"""Draws in a row without one inside the interval, after which it counts as empty."""


class Rounded:
    """The number of combinations of values by rounded cost, and draws from those of a given one."""

    def __init__(self, space: SearchSpace, cost: SlotCost) -> None:
        self.space, self._cost = space, cost
        self._chain = chain(space, [cost])
        lowest, highest = span(self._chain)
        self.step = (highest - lowest) / _STEPS or 1.0
        self._unread = unread(space)
        least = [stage.costs.min() for stage in self._chain]
        self.start = float(sum(least))
        exact = [(stage.costs[..., 0] - low) / self.step for stage, low in zip(self._chain, least, strict=True)]
        self._shifts = [np.rint(one).astype(np.int64) for one in exact]
        off = sum(float(np.abs(one - shift).max()) for one, shift in zip(exact, self._shifts, strict=True))
        self.off = off * self.step + 1e-12 * max(abs(lowest), abs(highest))
        """What a rounded cost may differ by."""
        self._ways = list(self._counted())

    @cached_property
    def costs(self) -> Costs:
        """The costs as they are."""
        return Costs(self.space, [self._cost])

    @property
    def ways(self) -> Floats:
        """Number of combinations by rounded cost, of which number `n` is `start + n * step`."""
        unread = np.prod([len(self.space.choices[place].values) for place in self._unread])
        ways: Floats = self._ways[-1][0] * unread
        return ways

    def within(self, low: float, high: float) -> "RoundedInterval":
        """Return the combinations with a cost from `low` to `high`, both included; either may be infinite."""
        return RoundedInterval(self, low, high)

    def evenly(self, low: float, high: float, count: int, rng: np.random.Generator) -> Codes:
        """Return codes `[count, choices]` with costs at about equal distances from `low` to `high`, few beyond.

        Each is drawn uniformly from those of a rounded cost. None if the space has nothing in between.
        """
        first, last = self.numbers(low, high, self.off)
        occupied = first + np.flatnonzero(self.ways[first:last])
        if not len(occupied):
            return self.draw(occupied, rng)
        wanted = np.linspace(occupied[0], occupied[-1], count)
        return self.draw(occupied[np.searchsorted(occupied, wanted)], rng)

    def numbers(self, low: float, high: float, slack: float) -> tuple[int, int]:
        """Return first and end of the rounded costs from `low - slack` to `high + slack`."""
        size = self._ways[-1].shape[1]
        first = ceil(min(max((low - slack - self.start) / self.step, 0), size))
        last = floor(min(max((high + slack - self.start) / self.step, -1), size - 1))
        return first, max(last + 1, first)

    def draw(self, numbers: Integers, rng: np.random.Generator) -> Codes:
        """Return codes `[n, choices]`, each drawn uniformly from those of the rounded cost with this number, if it has
        any."""
        codes = np.zeros((len(numbers), len(self.space.choices)), dtype=np.int16)
        for place in self._unread:
            codes[:, place] = rng.integers(len(self.space.choices[place].values), size=len(numbers))
        states, left = np.zeros(len(numbers), dtype=np.int64), numbers.astype(np.int64)
        for stage, shifts, ways in zip(self._chain[::-1], self._shifts[::-1], self._ways[-2::-1], strict=True):
            members = _members(stage, shifts, ways, states, left, rng)
            codes[:, stage.decided] = stage.codes[members]
            states, left = stage.source[states, members], left - shifts[states, members]
        return codes

    def _counted(self) -> Iterator[Floats]:
        """Return, before all stages and after each one: the number of ways `[states, rounded costs]`."""
        ways = np.ones((1, 1))
        yield ways
        for stage, shifts in zip(self._chain, self._shifts, strict=True):
            ways = _after(ways, stage, shifts)
            yield ways


class RoundedInterval:
    """The combinations of values with a cost in an interval, among those whose rounded costs say that they may be."""

    def __init__(self, rounded: Rounded, low: float, high: float) -> None:
        self._rounded, self._low, self._high = rounded, low, high
        self._first, end = rounded.numbers(low, high, rounded.off)
        self._ways = rounded.ways[self._first : end]

    @property
    def count(self) -> int:
        """About how many there are: a sum of exact numbers, and a sampled part of those with a cost near the ends."""
        return round(self._estimate[0])

    @property
    def standard_error(self) -> float:
        """The standard error of `count`, by the sampled part."""
        return self._estimate[1]

    def sample(self, count: int, rng: np.random.Generator) -> Codes:
        """Return codes `[count, choices]`, drawn uniformly with repetition.

        Fewer if next to nothing is in the interval.
        """
        found = [self._drawn(self._ways, 0, rng)]
        missed = 0
        while (missing := count - sum(map(len, found))) > 0 and missed < _TRIES and self._ways.any():
            # About as many more as will miss, so that a second draw is rarely needed.
            codes = self._drawn(self._ways, missing + missing // 16 + 8, rng)
            within = codes[self._inside(codes)]
            missed = 0 if len(within) else missed + len(codes)
            found.append(within[:missing])
        return np.concatenate(found)

    @cached_property
    def _estimate(self) -> tuple[float, float]:
        first, end = self._rounded.numbers(self._low, self._high, -self._rounded.off)
        inner = slice(first - self._first, end - self._first)
        sure, near = float(self._ways[inner].sum()), self._ways.copy()
        near[inner] = 0
        if not near.any():
            return sure, 0.0
        codes = self._drawn(near, _ESTIMATED_FROM, generator(0, "counting"))
        share = float(self._inside(codes).mean())
        # Not 0 where all or none are inside.
        error = np.sqrt((share * (1 - share) + 1 / len(codes)) / len(codes))
        return sure + share * float(near.sum()), float(error * near.sum())

    def _drawn(self, ways: Floats, count: int, rng: np.random.Generator) -> Codes:
        """Return codes `[count, choices]` with rounded costs in proportion to `ways`."""
        cumulative = ways.cumsum()
        numbers = np.searchsorted(cumulative, rng.random(count) * cumulative[-1:], side="right")
        return self._rounded.draw(self._first + numbers.clip(max=len(ways) - 1), rng)

    def _inside(self, codes: Codes) -> npt.NDArray[np.bool_]:
        costs = self._rounded.costs(codes)[:, 0]
        inside: npt.NDArray[np.bool_] = (costs >= self._low) & (costs <= self._high)
        return inside


def _after(before: Floats, stage: Stage, shifts: Integers) -> Floats:
    """Return the number of ways `[states, rounded costs]` after a stage."""
    length = before.shape[1]
    after = np.zeros((stage.states, length + int(shifts.max())))
    for row, sources, row_shifts in zip(after, stage.source, shifts, strict=True):
        for source, shift in zip(sources.tolist(), row_shifts.tolist(), strict=True):
            row[shift : shift + length] += before[source]
    return after


def _members(
    stage: Stage, shifts: Integers, ways: Floats, states: Integers, left: Integers, rng: np.random.Generator
) -> Integers:
    """Return how to get to states `[n]` with rounded costs `left` `[n]`: members, in proportion to the `ways` before
    them."""
    members, size = np.empty(len(states), dtype=np.int64), stage.source.shape[1]
    # Many draws are at the same place, whose weights are looked up once.
    distinct, place = np.unique(np.stack([states, left]), axis=1, return_inverse=True)
    for start in range(0, distinct.shape[1], _WEIGHTS // size + 1):
        state, rest = distinct[:, start : start + _WEIGHTS // size + 1]
        ends = _cumulative(ways, stage.source[state], rest[:, None] - shifts[state])
        (here,) = np.nonzero((place >= start) & (place < start + len(state)))
        row = place[here] - start
        # Each row has the unit interval that begins at its number.
        found = np.searchsorted(ends.ravel(), row + rng.random(len(here)), side="right")
        members[here] = (found - row * size).clip(0, size - 1)
    return members


def _cumulative(ways: Floats, source: Integers, left: Integers) -> Floats:
    """Return for each row of `[n, members]` the number of the row plus the share of this member and those before it."""
    possible = (left >= 0) & (left < ways.shape[1])
    weights = np.where(possible, ways[source, left.clip(0, ways.shape[1] - 1)], 0.0).cumsum(axis=1)
    shares: Floats = weights / np.where(weights[:, -1:] > 0, weights[:, -1:], 1.0)
    return np.arange(len(shares))[:, None] + shares
