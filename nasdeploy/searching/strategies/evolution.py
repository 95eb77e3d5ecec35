"""Search without a model: at random, from a grid, and by evolution, which screens its children unless told not to."""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from nasdeploy.core.arch import Arch
from nasdeploy.core.space import Codes, SearchSpace
from nasdeploy.searching.loss_table import AdditiveLoss
from nasdeploy.searching.problem import Candidate, Problem, candidates_of, pareto_front
from nasdeploy.searching.proposals import Proposals
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.searching.strategies.additive import least_losses
from nasdeploy.searching.strategies.strategy import Evaluate, StrategyContext, most_promising


class Random:
    """Architectures spread evenly over the costs that the budget allows."""

    def run(
        self,
        problem: Problem,
        evaluate: Evaluate,
        settings: SearchSettings,
        rng: np.random.Generator,
        context: StrategyContext,
    ) -> None:
        """Evaluate `settings.evaluations` architectures, in rounds of the sizes that evolution has."""
        drawn = Proposals(problem, rng).random(settings.evaluations)
        begin, end = 0, settings.parents
        while begin < len(drawn):
            evaluate(drawn[begin:end])
            begin, end = end, end + settings.offspring


class Evolution:
    """Rounds of mutations and crossovers of the best network in each interval of cost, or of the best of all.

    AlphaNet (section 4) and OFA (section 4.1); screening is by a Gaussian process over what is known.
    """

    def run(
        self,
        problem: Problem,
        evaluate: Evaluate,
        settings: SearchSettings,
        rng: np.random.Generator,
        context: StrategyContext,
    ) -> None:
        """Evaluate random architectures of the problem, then round by round what descends from the best.

        With a table of loss half of the first round are the networks of least predicted loss.
        """
        found: list[Candidate] = []
        for archs in _rounds(problem, settings, rng, found, context):
            found += candidates_of(problem, archs, evaluate(archs))


def _rounds(
    problem: Problem,
    settings: SearchSettings,
    rng: np.random.Generator,
    found: Sequence[Candidate],
    context: StrategyContext,
) -> Iterator[list[Arch]]:
    """Architectures to evaluate, round by round; `found` has grown by the earlier ones."""
    candidates = Proposals(problem, rng)
    seeds = _seeds(problem, candidates, settings, rng, context)
    yield [*seeds, *candidates.random(settings.parents - len(seeds))]
    for _ in range(settings.rounds - 1):
        parents = parents_of(found, problem.axis.name, settings)
        if settings.screening == 1:
            archs = _children(candidates, parents, settings, 1)
        else:
            archs = _screened(problem, candidates, parents, found, settings)
        if not archs:
            return
        yield archs


def _seeds(
    problem: Problem,
    candidates: Proposals,
    settings: SearchSettings,
    rng: np.random.Generator,
    context: StrategyContext,
) -> list[Arch]:
    """Return half of the first round, the networks of least loss, if there is a table of it; else none."""
    if context.losses is None:
        return []
    ranked = least_losses(problem, AdditiveLoss(problem.space, context.losses), settings, candidates, rng)
    return candidates.of(ranked, settings.parents // 2)


def _children(candidates: Proposals, parents: Sequence[Arch], settings: SearchSettings, times: float) -> list[Arch]:
    """So many times the settings' mutations and crossovers."""
    mutations = candidates.mutations(parents, round(times * settings.mutations), settings.mutation_probability)
    return [*mutations, *candidates.crossovers(parents, round(times * settings.crossovers))]


def _screened(
    problem: Problem,
    candidates: Proposals,
    parents: Sequence[Arch],
    found: Sequence[Candidate],
    settings: SearchSettings,
) -> list[Arch]:
    """The most promising of children and of as many random architectures, which lead out of a local optimum."""
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
    """Return, of each of equally wide intervals of the cost on `axis` the best candidate, if no cheaper one beats
    it."""
    costs = [candidate.costs[axis] for candidate in found]
    low, width = min(costs), (max(costs) - min(costs)) / buckets or 1.0
    best: dict[int, Candidate] = {}
    for candidate in found:
        bucket = min(int((candidate.costs[axis] - low) / width), buckets - 1)
        if bucket not in best or candidate.rank > best[bucket].rank:
            best[bucket] = candidate
    return pareto_front(list(best.values()), axis)


class CoarseToFine:
    """BigNAS's coarse-to-fine selection (section 3.2): the finest grid of at most `parents` points, then neighbours.

    On the grid all choices of a kind (the widths of all stages, their depths, ...) are at one part of their ranges.
    A point beyond the budget is repaired, since the paper goes on from skeletons of about the wanted cost.
    """

    def run(
        self,
        problem: Problem,
        evaluate: Evaluate,
        settings: SearchSettings,
        rng: np.random.Generator,
        context: StrategyContext,
    ) -> None:
        """Evaluate the grid, and then architectures in which some choices are one value up or down."""
        candidates = Proposals(problem, rng)
        archs = candidates.of(grid(problem.space, settings.parents, rng), settings.parents)
        # A budget between the grid's points may leave nothing of it.
        archs = archs or candidates.random(settings.parents)
        found: list[Candidate] = []
        left = settings.evaluations
        while archs:
            found += candidates_of(problem, archs, evaluate(archs))
            left -= len(archs)
            parents = parents_of(found, problem.axis.name, settings)
            count = min(settings.offspring, left)
            archs = candidates.neighbours(parents, count, settings.mutation_probability)


def grid(space: SearchSpace, most: int, rng: np.random.Generator) -> Codes:
    """Codes `[n, choices]` of the finest grid of at most `most` points; so many of the coarsest if it has more."""
    kind = np.array([choice.name.partition(".")[0] for choice in space.choices])
    last = np.array([len(choice.values) - 1 for choice in space.choices])
    # A kind of which every choice has one value takes no levels from the others.
    kinds = np.unique(kind[last > 0])
    levels = max(2, int(most ** (1 / max(len(kinds), 1)) + 1e-9))
    points = np.array(list(product(np.linspace(0, 1, levels), repeat=len(kinds))))
    codes = np.zeros((len(points), len(last)), dtype=np.int16)
    for part, one in zip(points.T, kinds, strict=True):
        codes[:, kind == one] = np.floor(part[:, None] * last[kind == one] + 0.5)
    codes = np.unique(space.canonical(codes), axis=0)
    return codes if len(codes) <= most else codes[np.sort(rng.permutation(len(codes))[:most])]
