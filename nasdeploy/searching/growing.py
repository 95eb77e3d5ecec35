"""The Pareto front while it grows, as rows of a table."""

from nasdeploy.core.arch import Arch
from nasdeploy.searching.front import Candidate, candidates_of, pareto_front
from nasdeploy.searching.problem import Problem
from nasdeploy.store.evaluations import Evaluation

_ROWS = 8


class GrowingFront:
    """What was evaluated so far within a problem's budget that nothing beats."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._front: list[Candidate] = []
        self._new: list[tuple[Arch, Evaluation]] = []

    def add(self, arch: Arch, evaluation: Evaluation) -> None:
        """One more; what was stopped before all images does not count."""
        if evaluation.whole:
            self._new.append((arch, evaluation))

    @property
    def front(self) -> list[Candidate]:
        """By rising cost on the problem's axis."""
        if self._new:
            archs, evaluations = zip(*self._new, strict=True)
            self._new.clear()
            found = candidates_of(self._problem, archs, evaluations)
            within = [candidate for candidate in found if self._problem.allows(candidate.costs)]
            self._front = pareto_front([*self._front, *within], self._problem.axis)
        return self._front

    def rows(self) -> list[list[str]]:
        """The best of the front, the heading first; no rows where nothing was found yet."""
        if not self.front:
            return []
        shown = [
            n for n, one in enumerate(self._problem.quantities) if n < len(self._problem.tables) or one.bound.bounded
        ]
        columns = sorted({self._problem.axis, *shown})
        heading = ["best so far", "top-1 in %", *(self._problem.quantities[n].name for n in columns)]
        return [heading, *(self._row(candidate, columns) for candidate in reversed(self.front[-_ROWS:]))]

    def _row(self, candidate: Candidate, columns: list[int]) -> list[str]:
        top1 = f"{100 * candidate.evaluation.top1:.2f} +- {100 * candidate.evaluation.top1_error:.2f}"
        costs = [self._problem.quantities[n].text(candidate.costs[n]) for n in columns]
        return [candidate.arch.digest, top1, *costs]
