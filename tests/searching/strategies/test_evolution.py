"""Evolution within a budget, against exhaustive search on a small space."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import InfeasibleBudget
from nasdeploy.core.randomness import generator
from nasdeploy.searching.budget import Budget
from nasdeploy.searching.problem import Candidate, Problem, candidates_of, pareto_front
from nasdeploy.searching.proposals import Proposals
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.searching.strategies import StrategyContext
from nasdeploy.searching.strategies.evolution import Evolution, best_in_buckets, parents_of
from nasdeploy.store.evaluations import Evaluation
from tests.latency.tables import SPACE, archs, table
from tests.searching.accuracy import evaluation
from tests.searching.budgets import budget_of

TABLE = table()

SETTINGS = SearchSettings(rounds=8, parents=24, mutations=8, crossovers=8, buckets=10)


def search(budget: Budget, seed: int = 0) -> list[Candidate]:
    problem, found = Problem(SPACE, budget, TABLE), []

    def evaluate(drawn: Sequence[Arch]) -> list[Evaluation]:
        evaluations = [evaluation(arch) for arch in drawn]
        found.extend(candidates_of(problem, drawn, evaluations))
        return evaluations

    Evolution().run(problem, evaluate, SETTINGS, generator(seed, "test"), StrategyContext())
    return sorted(found, key=lambda candidate: candidate.rank, reverse=True)


def all_within(budget: Budget) -> list[Candidate]:
    problem = Problem(SPACE, budget, TABLE)
    every = candidates_of(problem, archs(), [evaluation(arch) for arch in archs()])
    return [candidate for candidate in every if problem.allows(candidate.costs)]


def highest(budget: Budget) -> float:
    return budget["latency on cpu"].high


def budget_at(part: float) -> Budget:
    fastest, slowest = TABLE.range(SPACE)
    return budget_of(latency=fastest + part * (slowest - fastest))


@pytest.mark.parametrize("part", [0.1, 0.4, 0.8])
def test_finds_the_best_of_all_within_the_budget(part):
    budget = budget_at(part)
    best = max(candidate.rank for candidate in all_within(budget))
    found = [search(budget, seed)[0].rank for seed in range(5)]
    assert sum(best[0] - rank[0] <= 0.001 for rank in found) >= 4
    assert max(found) <= best


def test_everything_evaluated_is_within_the_budget_and_comes_once():
    budget = budget_at(0.3)
    found = search(budget)
    assert all(candidate.costs["latency on cpu"] <= highest(budget) for candidate in found)
    assert len({candidate.arch for candidate in found}) == len(found)
    assert found == sorted(found, key=lambda candidate: candidate.rank, reverse=True)


def test_same_generator_same_search():
    assert search(budget_at(0.5), 3) == search(budget_at(0.5), 3)
    assert search(budget_at(0.5), 3) != search(budget_at(0.5), 4)


def test_a_tight_budget_leaves_the_cheapest_network():
    fastest, _ = TABLE.range(SPACE)
    budget = budget_of(latency=fastest * (1 + 1e-9))
    assert [candidate.arch for candidate in search(budget)] == [candidate.arch for candidate in all_within(budget)]


def test_small_budgets_that_random_choices_never_meet_still_have_candidates():
    budget = budget_at(0.02)
    drawn = Proposals(Problem(SPACE, budget, TABLE), generator(0, "test")).random(10)
    assert 1 <= len(drawn) <= len(all_within(budget))


def test_bounds_that_exclude_each_other_are_infeasible():
    problem = Problem(SPACE, budget_of(macs=90.0, params=1.0))
    with pytest.raises(InfeasibleBudget, match="not all together"):
        Proposals(problem, generator(0, "test")).random(10)


def test_first_candidates_spread_over_the_allowed_costs():
    budget = budget_at(0.5)
    problem = Problem(SPACE, budget, TABLE)
    drawn = Proposals(problem, generator(0, "test")).random(12)
    latencies = sorted(problem.costs(SPACE.encode(drawn))[:, 0])
    fastest, _ = TABLE.range(SPACE)
    thirds = [
        sum(fastest + k * width <= t <= fastest + (k + 1) * width for t in latencies)
        for k, width in ((k, (highest(budget) - fastest) / 3) for k in range(3))
    ]
    assert min(thirds) >= 2


def test_pareto_front_by_definition():
    every = all_within(budget_at(1.0))
    front = pareto_front(every, axis="latency on cpu")

    def beaten(one: Candidate) -> bool:
        return any(
            o.costs["latency on cpu"] <= one.costs["latency on cpu"] and o.rank >= one.rank and o is not one
            for o in every
        )

    assert {c.arch for c in front} == {c.arch for c in every if not beaten(c)}
    costs = [c.costs["latency on cpu"] for c in front]
    assert costs == sorted(costs)


def test_best_in_buckets_are_few_and_unbeaten():
    every = all_within(budget_at(1.0))
    kept = best_in_buckets(every, axis="latency on cpu", buckets=5)
    assert 1 <= len(kept) <= 5
    assert max(c.rank for c in every) == kept[-1].rank


def test_the_elite_are_the_best_whatever_their_cost():
    every = all_within(budget_at(1.0))
    settings = SearchSettings(buckets=0, elite=7)
    best = sorted(every, key=lambda candidate: candidate.rank, reverse=True)[:7]
    assert parents_of(every, "latency on cpu", settings) == [candidate.arch for candidate in best]
    both = parents_of(every, "latency on cpu", SearchSettings(buckets=5, elite=7))
    assert set(both) == {c.arch for c in [*best, *best_in_buckets(every, "latency on cpu", 5)]}
    assert len(both) == len(set(both))


def test_cross_entropy_decides_between_equal_accuracies():
    first, second = all_within(budget_at(1.0))[:2]
    better = Candidate(first.arch, first.evaluation, (1.0, 1.0, 1.0))
    score = replace(first.evaluation.score, loss=9.0)
    same_value = replace(first.evaluation, digest=second.arch.digest, score=score)
    assert better.rank > Candidate(second.arch, same_value, (1.0, 1.0, 1.0)).rank
