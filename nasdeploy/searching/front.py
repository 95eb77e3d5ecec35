"""Evaluated architectures with their costs, and which of them no other beats."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nasdeploy.core.arch import Arch
from nasdeploy.searching.problem import Problem
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
