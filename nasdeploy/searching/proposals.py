"""Architectures within a budget: at random, by mutation and by crossover, repaired; none comes twice. Torch-free."""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np

from nasdeploy.core.arch import Arch
from nasdeploy.core.counting.chain import Integers
from nasdeploy.core.counting.rounded import Rounded
from nasdeploy.core.errors import InfeasibleBudget
from nasdeploy.core.space import Codes, SearchSpace
from nasdeploy.searching.problem import Problem

_SPARE = 256
_DRAWN = 16
"""Mutations and crossovers that are drawn for each that is wanted: of many, enough are within most budgets."""

_TRIES = 10
"""Draws in a row that give nothing new, after which a small space counts as used up."""


class Proposals:
    """Draws new feasible architectures of a problem."""

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        self._problem, self._rng = problem, rng
        self._seen: set[Arch] = set()

    def random(self, count: int) -> list[Arch]:
        """Up to `count` architectures, spread evenly over the costs on the axis that the budget allows.

        Each is drawn uniformly from those that cost as much, and changed if it is beyond a bound on another cost.
        Raises `InfeasibleBudget` if nothing feasible turns up.
        """
        codes = self._pool(2 * count + _SPARE)
        if not len(codes):
            raise InfeasibleBudget(
                f"no network was found within {self._problem.budget}; each bound can be met, but not all together: "
                "relax one of them"
            )
        axis = self._problem.costs(codes)[:, self._problem.axis.column]
        targets = np.linspace(axis.min(), axis.max(), count)
        order = np.argsort(axis)
        nearest = order[np.searchsorted(axis[order], targets).clip(max=len(order) - 1)]
        rest = self._rng.permutation(len(codes))
        return self._new(codes[np.concatenate([nearest, rest])], count)

    def mutations(self, parents: Sequence[Arch], count: int, probability: float) -> list[Arch]:
        """Up to `count` new architectures, each a random parent with each choice redrawn with some probability."""
        codes = self._problem.space.encode(parents)

        def draw() -> Codes:
            return self._problem.space.mutate(self._pick(codes, _DRAWN * count), probability, self._rng)

        return self._collect(draw, count)

    def crossovers(self, parents: Sequence[Arch], count: int) -> list[Arch]:
        """Up to `count` new architectures, each choice from either of two random parents."""
        codes = self._problem.space.encode(parents)

        def draw() -> Codes:
            return self._problem.space.crossover(
                self._pick(codes, _DRAWN * count), self._pick(codes, _DRAWN * count), self._rng
            )

        return self._collect(draw, count)

    def neighbours(self, parents: Sequence[Arch], count: int, probability: float) -> list[Arch]:
        """Up to `count` new architectures, each a random parent with some choices one value up or down."""
        codes = self._problem.space.encode(parents)
        last = np.array([len(choice.values) - 1 for choice in self._problem.space.choices])

        def draw() -> Codes:
            picked = self._pick(codes, _DRAWN * count)
            moved = self._rng.random(picked.shape) < probability
            steps = np.where(moved, self._rng.choice([-1, 1], size=picked.shape), 0)
            return np.clip(picked + steps, 0, last).astype(np.int16)

        return self._collect(draw, count)

    def of(self, codes: Codes, count: int) -> list[Arch]:
        """Up to `count` new architectures that codes `[n, choices]` become when they are repaired."""
        return self._new(repaired(self._problem, codes, self._rng), count)

    def put_back(self, archs: Sequence[Arch]) -> None:
        """Let architectures that were drawn and not used come again."""
        self._seen.difference_update(archs)

    def _pick(self, codes: Codes, count: int) -> Codes:
        return codes[self._rng.integers(len(codes), size=max(count, 1))]

    def _collect(self, draw: Callable[[], Codes], count: int) -> list[Arch]:
        """New architectures among what `draw` gives; what is beyond the budget is repaired where too few are within.

        Fewer than `count` where a small space is used up.
        """
        found: list[Arch] = []
        in_vain = 0
        while len(found) < count and in_vain < _TRIES:
            codes, before = draw(), len(found)
            within = self._problem.feasible(self._problem.costs(codes))
            found += self._new(codes[within], count - len(found))
            if len(found) < count:
                beyond = codes[~within][: _SPARE + count]
                found += self._new(repaired(self._problem, beyond, self._rng), count - len(found))
            in_vain = 0 if len(found) > before else in_vain + 1
        return found

    def _new(self, codes: Codes, count: int) -> list[Arch]:
        """The first `count` distinct architectures that were not drawn before."""
        _, first = np.unique(self._problem.space.canonical(codes), axis=0, return_index=True)
        distinct, found = codes[np.sort(first)], list[Arch]()
        for start in range(0, len(distinct), max(count, 1)):
            archs = self._problem.space.decode(distinct[start : start + count])
            found += [arch for arch in archs if arch not in self._seen][: count - len(found)]
            if len(found) == count:
                break
        self._seen.update(found)
        return found

    def _pool(self, count: int) -> Codes:
        """Feasible codes, about `count` of them at equal distances on the axis, and the cheapest."""
        space, quantity = self._problem.space, self._problem.axis
        low, high = quantity.bound.low - quantity.offset, quantity.bound.high - quantity.offset
        even = self._rounded.evenly(low, high, count, self._rng)
        cheapest = space.encode(self._problem.cheapest())
        return np.concatenate(
            [
                cheapest[self._problem.feasible(self._problem.costs(cheapest))],
                repaired(self._problem, even, self._rng),
            ]
        )

    @cached_property
    def _rounded(self) -> Rounded:
        """The sampler by the cost on the axis; made when it is needed, because that may take half a second."""
        return Rounded(self._problem.space, self._problem.axis.slot_cost)


_AT_ONCE = 4096
"""Changes that are looked at together."""


def repaired(problem: Problem, codes: Codes, rng: np.random.Generator) -> Codes:
    """The feasible ones of codes `[n, choices]`, and what the others become: up to `n`, in their order.

    One value at a time is replaced by another, in random order, if that brings the architecture closer to all bounds
    together, until it is feasible or no replacement helps. What is changed no more than that ends near the bounds,
    where the best architectures are.
    """
    codes = codes.copy()
    beyond = problem.violation(problem.costs(codes))
    (left,) = np.nonzero(beyond > 0)
    places, values = _every_value(problem.space)
    orders = rng.permuted(np.tile(np.arange(len(places)), (len(codes), 1)), axis=1)
    begin, in_vain = np.zeros((2, len(codes)), dtype=np.int64)
    while len(left):
        number = min(max(_AT_ONCE // len(left), 1), len(places))
        looked_at = (begin[left, None] + np.arange(number)) % len(places)
        tried = orders[left[:, None], looked_at]
        changed = np.repeat(codes[left, None], number, axis=1)
        np.put_along_axis(changed, places[tried][..., None], values[tried][..., None], axis=2)
        now = problem.violation(problem.costs(changed.reshape(-1, codes.shape[1]))).reshape(tried.shape)
        closer = now < beyond[left, None]
        rows, first, helped = np.arange(len(left)), closer.argmax(axis=1), closer.any(axis=1)
        codes[left[helped]], beyond[left[helped]] = changed[rows, first][helped], now[rows, first][helped]
        begin[left] += np.where(helped, first + 1, number)
        in_vain[left] = np.where(helped, 0, in_vain[left] + number)
        left = left[(beyond[left] > 0) & (in_vain[left] < len(places))]
    return codes[problem.feasible(problem.costs(codes))]


def _every_value(space: SearchSpace) -> tuple[Integers, Codes]:
    """Places of all choices, once for each of their values, and these."""
    sizes = [len(choice.values) for choice in space.choices]
    values = np.concatenate([np.arange(size, dtype=np.int16) for size in sizes])
    return np.repeat(np.arange(len(sizes)), sizes), values
