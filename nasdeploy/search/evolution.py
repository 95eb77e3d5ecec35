"""Evolutionary search (AlphaNet, section 4; sizes from the recipe): random parents, then mutations and crossovers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import inf, isnan

import numpy as np

from nasdeploy.arch import Arch
from nasdeploy.search.budget import Problem
from nasdeploy.search.candidates import Candidates
from nasdeploy.search.settings import SearchSettings
from nasdeploy.store.evaluations import Evaluation

Evaluate = Callable[[Sequence[Arch]], list[Evaluation]]


@dataclass(frozen=True)
class Candidate:
    """An evaluated architecture and its costs: seconds, MACs, parameters."""

    arch: Arch
    evaluation: Evaluation
    costs: tuple[float, float, float]

    @property
    def rank(self) -> tuple[float, float]:
        """The larger, the better: top-1, then cross-entropy, one that is not a number last."""
        loss = self.evaluation.cross_entropy
        return self.evaluation.top1, -inf if isnan(loss) else -loss


def candidates_of(problem: Problem, archs: Sequence[Arch], evaluations: Sequence[Evaluation]) -> list[Candidate]:
    """Architectures with their evaluations and costs."""
    costs = problem.costs(problem.space.encode(archs))
    return [
        Candidate(arch, evaluation, (float(row[0]), float(row[1]), float(row[2])))
        for arch, evaluation, row in zip(archs, evaluations, costs, strict=True)
    ]


def evolve(problem: Problem, evaluate: Evaluate, settings: SearchSettings, rng: np.random.Generator) -> list[Candidate]:
    """All candidates that were evaluated, best first. Deterministic for a generator and an `evaluate` that is."""
    found: list[Candidate] = []
    for archs in _rounds(problem, settings, rng, found):
        found += candidates_of(problem, archs, evaluate(archs))
    return sorted(found, key=lambda candidate: candidate.rank, reverse=True)


def _rounds(
    problem: Problem, settings: SearchSettings, rng: np.random.Generator, found: Sequence[Candidate]
) -> Iterator[list[Arch]]:
    """Architectures to evaluate, round by round; `found` has grown by the earlier ones."""
    candidates = Candidates(problem, rng)
    yield candidates.random(settings.parents)
    for _ in range(settings.rounds - 1):
        parents = [candidate.arch for candidate in best_in_buckets(found, problem.axis, settings.buckets)]
        mutations = candidates.mutations(parents, settings.mutations, settings.mutation_probability)
        archs = [*mutations, *candidates.crossovers(parents, settings.crossovers)]
        if not archs:
            return
        yield archs


def best_in_buckets(found: Sequence[Candidate], axis: int, buckets: int) -> list[Candidate]:
    """Of each of equally wide intervals of the cost on `axis` the best candidate, if no cheaper one beats it."""
    costs = [candidate.costs[axis] for candidate in found]
    low, width = min(costs), (max(costs) - min(costs)) / buckets or 1.0
    best: dict[int, Candidate] = {}
    for candidate in found:
        bucket = min(int((candidate.costs[axis] - low) / width), buckets - 1)
        if bucket not in best or candidate.rank > best[bucket].rank:
            best[bucket] = candidate
    return pareto_front(list(best.values()), axis)


def pareto_front(found: Sequence[Candidate], axis: int) -> list[Candidate]:
    """The candidates that no cheaper or equally cheap one beats, by rising cost on `axis`."""
    front: list[Candidate] = []
    for candidate in sorted(found, key=lambda c: (c.costs[axis], *(-value for value in c.rank))):
        if not front or candidate.rank > front[-1].rank:
            front.append(candidate)
    return front
