"""Evaluated architectures with their costs, which of them no other beats, and that front while it grows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nasdeploy.core.arch import Arch
from nasdeploy.core.score import Metric
from nasdeploy.searching.problem import Problem, Quantity
from nasdeploy.store.evaluations import Evaluation


@dataclass(frozen=True)
class Candidate:
    """An evaluated architecture and its costs, by the names of the problem's quantities."""

    arch: Arch
    evaluation: Evaluation
    costs: Mapping[str, float]

    @property
    def rank(self) -> tuple[float, float]:
        """The key that orders candidates, larger for better ones."""
        return self.evaluation.score.rank


def candidates_of(problem: Problem, archs: Sequence[Arch], evaluations: Sequence[Evaluation]) -> list[Candidate]:
    """Architectures with their evaluations and costs."""
    costs = problem.costs(problem.space.encode(archs))
    return [
        Candidate(arch, evaluation, row)
        for arch, evaluation, row in zip(archs, evaluations, problem.named(costs), strict=True)
    ]


def pareto_front(found: Sequence[Candidate], axis: str) -> list[Candidate]:
    """The candidates that no cheaper or equally cheap one beats, by rising cost on `axis`."""
    front: list[Candidate] = []
    for candidate in sorted(found, key=lambda c: (c.costs[axis], *(-value for value in c.rank))):
        if not front or candidate.rank > front[-1].rank:
            front.append(candidate)
    return front


_ROWS = 8


class GrowingFront:
    """What was evaluated so far within a problem's budget that nothing beats."""

    def __init__(self, problem: Problem, metric: Metric) -> None:
        self._problem, self._metric = problem, metric
        self._front: list[Candidate] = []
        self._new: list[tuple[Arch, Evaluation]] = []

    def add(self, arch: Arch, evaluation: Evaluation) -> None:
        """One more; what was stopped before all samples does not count."""
        if evaluation.whole:
            self._new.append((arch, evaluation))

    @property
    def front(self) -> list[Candidate]:
        """Return the front by rising cost on the problem's axis."""
        if self._new:
            archs, evaluations = zip(*self._new, strict=True)
            self._new.clear()
            found = candidates_of(self._problem, archs, evaluations)
            within = [candidate for candidate in found if self._problem.allows(candidate.costs)]
            self._front = pareto_front([*self._front, *within], self._problem.axis.name)
        return self._front

    def rows(self) -> list[list[str]]:
        """The best of the front, the heading first; no rows where nothing was found yet."""
        if not self.front:
            return []
        shown = [one for one in self._problem.quantities if one.shown or one == self._problem.axis]
        heading = ["best so far", self._metric.heading, *map(str, shown)]
        return [heading, *(self._row(candidate, shown) for candidate in reversed(self.front[-_ROWS:]))]

    def _row(self, candidate: Candidate, shown: Sequence[Quantity]) -> list[str]:
        score = candidate.evaluation.score
        costs = [one.cost.text(candidate.costs[one.name]) for one in shown]
        return [candidate.arch.digest, self._metric.with_error(score.value, score.error), *costs]
