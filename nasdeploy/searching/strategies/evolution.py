"""Evolutionary search (AlphaNet, section 4; OFA, section 4.1): random parents, then mutations and crossovers."""

from collections.abc import Iterator, Sequence

import numpy as np

from nasdeploy.core.arch import Arch
from nasdeploy.searching.front import Candidate, candidates_of, pareto_front
from nasdeploy.searching.problem import Problem
from nasdeploy.searching.proposals import Candidates
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.searching.strategies.strategy import Evaluate


class Evolution:
    """Rounds of mutations and crossovers of the best network in each interval of cost, or of the best of all."""

    def run(self, problem: Problem, evaluate: Evaluate, settings: SearchSettings, rng: np.random.Generator) -> None:
        """Evaluate random architectures of the problem, then round by round what descends from the best."""
        found: list[Candidate] = []
        for archs in _rounds(problem, settings, rng, found):
            found += candidates_of(problem, archs, evaluate(archs))

    def planned(self, settings: SearchSettings) -> int:
        """Evaluations: those of the first round, and mutations and crossovers of each further one."""
        return settings.evaluations


def _rounds(
    problem: Problem, settings: SearchSettings, rng: np.random.Generator, found: Sequence[Candidate]
) -> Iterator[list[Arch]]:
    """Architectures to evaluate, round by round; `found` has grown by the earlier ones."""
    candidates = Candidates(problem, rng)
    yield candidates.random(settings.parents)
    for _ in range(settings.rounds - 1):
        parents = parents_of(found, problem.axis.name, settings)
        if settings.screening == 1:
            archs = _children(candidates, parents, settings, 1)
        else:
            archs = _screened(problem, candidates, parents, found, settings)
        if not archs:
            return
        yield archs


def _children(candidates: Candidates, parents: Sequence[Arch], settings: SearchSettings, times: float) -> list[Arch]:
    """So many times the settings' mutations and crossovers."""
    mutations = candidates.mutations(parents, round(times * settings.mutations), settings.mutation_probability)
    return [*mutations, *candidates.crossovers(parents, round(times * settings.crossovers))]


def _screened(
    problem: Problem,
    candidates: Candidates,
    parents: Sequence[Arch],
    found: Sequence[Candidate],
    settings: SearchSettings,
) -> list[Arch]:
    """The most promising of children and of as many random architectures, which lead out of a local optimum."""
    # scikit-learn takes a second to import.
    from nasdeploy.searching.surrogate import most_promising

    children = _children(candidates, parents, settings, settings.screening / 2)
    drawn = [*children, *candidates.random(max(1, settings.screening * settings.offspring // 2))]
    chosen = most_promising(problem, found, drawn, settings.offspring)
    candidates.put_back([arch for arch in drawn if arch not in set(chosen)])
    return chosen


def parents_of(found: Sequence[Candidate], axis: str, settings: SearchSettings) -> list[Arch]:
    """The best of each bucket and the elite, each once."""
    chosen = best_in_buckets(found, axis, settings.buckets) if settings.buckets else []
    elite = sorted(found, key=lambda candidate: candidate.rank, reverse=True)[: settings.elite]
    return list(dict.fromkeys(candidate.arch for candidate in [*chosen, *elite]))


def best_in_buckets(found: Sequence[Candidate], axis: str, buckets: int) -> list[Candidate]:
    """Of each of equally wide intervals of the cost on `axis` the best candidate, if no cheaper one beats it."""
    costs = [candidate.costs[axis] for candidate in found]
    low, width = min(costs), (max(costs) - min(costs)) / buckets or 1.0
    best: dict[int, Candidate] = {}
    for candidate in found:
        bucket = min(int((candidate.costs[axis] - low) / width), buckets - 1)
        if bucket not in best or candidate.rank > best[bucket].rank:
            best[bucket] = candidate
    return pareto_front(list(best.values()), axis)
