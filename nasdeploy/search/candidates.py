"""Architectures within a budget: at random, by mutation and by crossover; none comes twice."""

from collections.abc import Callable, Sequence

import numpy as np

from nasdeploy.arch import Arch
from nasdeploy.costs import Floats
from nasdeploy.errors import InfeasibleBudget
from nasdeploy.search.problem import Problem
from nasdeploy.space import Codes

_POOL = 20_000
_TRIES = 100


class Candidates:
    """Draws new feasible architectures of a problem."""

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        self._problem, self._rng = problem, rng
        self._seen: set[Arch] = set()

    def random(self, count: int) -> list[Arch]:
        """Up to `count` architectures, spread evenly over the costs that the budget allows.

        Raises `InfeasibleBudget` if nothing feasible turns up.
        """
        codes, costs = self._pool()
        if not len(codes):
            raise InfeasibleBudget(
                f"no network was found within {self._problem.budget}; each bound can be met, but not all together: "
                "relax one of them"
            )
        axis = costs[:, self._problem.axis]
        targets = np.linspace(axis.min(), axis.max(), count)
        order = np.argsort(axis)
        nearest = order[np.searchsorted(axis[order], targets).clip(max=len(order) - 1)]
        rest = self._rng.permutation(len(codes))
        return self._new(codes[np.concatenate([nearest, rest])], count)

    def mutations(self, parents: Sequence[Arch], count: int, probability: float) -> list[Arch]:
        """Up to `count` new architectures, each a random parent with each choice redrawn with some probability."""
        codes = self._problem.space.encode(parents)

        def draw() -> Codes:
            return self._problem.space.mutate(self._pick(codes, count), probability, self._rng)

        return self._collect(draw, count)

    def crossovers(self, parents: Sequence[Arch], count: int) -> list[Arch]:
        """Up to `count` new architectures, each choice from either of two random parents."""
        codes = self._problem.space.encode(parents)

        def draw() -> Codes:
            return self._problem.space.crossover(self._pick(codes, count), self._pick(codes, count), self._rng)

        return self._collect(draw, count)

    def _pick(self, codes: Codes, count: int) -> Codes:
        return codes[self._rng.integers(len(codes), size=max(count, 1))]

    def _collect(self, draw: Callable[[], Codes], count: int) -> list[Arch]:
        """New feasible architectures among what `draw` gives; fewer than `count` where a small space is used up."""
        found: list[Arch] = []
        for _ in range(_TRIES):
            if len(found) >= count:
                break
            codes = draw()
            found += self._new(codes[self._problem.feasible(self._problem.costs(codes))], count - len(found))
        return found

    def _new(self, codes: Codes, count: int) -> list[Arch]:
        """The first `count` distinct architectures that were not drawn before."""
        _, first = np.unique(codes, axis=0, return_index=True)
        found: list[Arch] = []
        for row in codes[np.sort(first)]:
            if len(found) >= count:
                break
            (arch,) = self._problem.space.decode(row[None])
            if arch not in self._seen:
                self._seen.add(arch)
                found.append(arch)
        return found

    def _pool(self) -> tuple[Codes, Floats]:
        """Feasible codes and their costs."""
        space, rng = self._problem.space, self._rng
        uniform = space.sample_codes(_POOL, rng)
        cheapest = space.encode(self._problem.cheapest())
        codes = np.concatenate([cheapest, uniform, space.blend(uniform, cheapest, rng)])
        costs = self._problem.costs(codes)
        feasible = self._problem.feasible(costs)
        return codes[feasible], costs[feasible]
