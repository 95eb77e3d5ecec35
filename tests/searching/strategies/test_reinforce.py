"""The controller: its reward by hand, its gradient, and that it learns."""

import numpy as np
import pytest

from nasdeploy.core.errors import InfeasibleBudget
from nasdeploy.core.randomness import generator
from nasdeploy.searching.problem import Problem
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.searching.strategies import StrategyContext
from nasdeploy.searching.strategies.reinforce import Policy, Reinforce, Rewards
from tests.searching.budgets import budget_of
from tests.searching.landscape import CODES, SPACE, Landscape, problem_at

SETTINGS = SearchSettings(rounds=5, parents=100, mutations=50, crossovers=50, reward="hard")


def test_rewards_by_hand():
    problem = problem_at(0.5)
    target = problem.upper[problem.axis.column]
    rewards = Rewards(problem, below=-0.07, above=-1.0)
    smallest, largest = SPACE.smallest(), SPACE.largest()
    rewards.learn([smallest], [0.8])
    codes, found, evaluated = rewards.of(SPACE.encode([smallest, largest]))
    macs = [SPACE.plan(arch).macs for arch in (smallest, largest)]
    assert (len(codes), evaluated.tolist()) == (2, [True, False])
    assert found == pytest.approx([0.8 * (macs[0] / target) ** -0.07, 0.8 * (macs[1] / target) ** -1.0])


def test_feasible_and_unknown_ones_have_no_reward_and_are_new():
    problem = problem_at(0.5)
    rewards = Rewards(problem, 0.0, -1.0)
    known, unknown = problem.cheapest()[0], SPACE.arch({**SPACE.smallest(), "kernel.0": 2})
    rewards.learn([known], [0.7])
    codes = SPACE.encode([known, unknown, SPACE.largest(), unknown])
    assert rewards.new(codes, [], 5) == [unknown]
    assert rewards.of(codes)[1][0] == 0.7
    assert len(rewards.of(codes)[0]) == 2


def test_a_rewarded_value_becomes_likely():
    policy, rng = Policy(SPACE), np.random.default_rng(0)
    for _ in range(30):
        codes = policy.sample(50, rng)
        policy.learn(codes, (codes[:, 3] == 1).astype(float), np.full(50, True))
    assert policy.probabilities[3][1] > 0.9
    assert [p.sum() for p in policy.probabilities] == pytest.approx([1.0] * len(SPACE.choices))


def test_entropy_gradient_against_finite_differences():
    policy, rng = Policy(SPACE), np.random.default_rng(0)
    policy._logits = rng.normal(size=len(policy._logits))

    def entropy():
        return -sum(float(p @ np.log(p)) for p in policy.probabilities)

    gradient, point, step = policy._entropy_gradient(), policy._logits.copy(), 1e-6
    for place in range(len(point)):
        policy._logits = point + step * np.eye(len(point))[place]
        above = entropy()
        policy._logits = point - step * np.eye(len(point))[place]
        assert gradient[place] == pytest.approx((above - entropy()) / (2 * step), abs=1e-7)


class Sum(Landscape):
    """Accuracies that are sums over choices, which a controller of independent distributions can learn."""

    def accuracy(self, codes):
        return 0.7 + 0.02 * sum(table[row, 0, 0] for table, row in zip(self._tables, codes.T, strict=True))


def test_beats_random_search_on_equal_evaluations():
    problem = problem_at(0.5)
    feasible = problem.feasible(problem.costs(CODES))
    for seed in range(3):
        landscape, drawn = Sum(seed), np.random.default_rng(seed)
        Reinforce().run(problem, landscape.evaluate, SETTINGS, generator(seed, "test"), StrategyContext())
        evaluated = len(landscape.evaluated)
        assert evaluated == len(set(landscape.evaluated)) <= SETTINGS.evaluations
        random = [drawn.choice(landscape.all[feasible], evaluated).max() for _ in range(20)]
        assert landscape.found().max() > np.quantile(random, 0.8)


def test_what_it_evaluates_gets_better():
    landscape = Sum(0)
    Reinforce().run(problem_at(0.5), landscape.evaluate, SETTINGS, generator(0, "test"), StrategyContext())
    found = landscape.found()
    assert found[-100:].mean() > found[:100].mean() + 0.5 * found[:100].std()


def test_the_soft_reward_looks_for_cheaper_networks_than_the_hard_one():
    problem = problem_at(0.8)

    def macs(reward):
        landscape = Landscape(0)
        settings = SETTINGS.model_copy(update={"reward": reward})
        Reinforce().run(problem, landscape.evaluate, settings, generator(0, "test"), StrategyContext())
        return problem.costs(SPACE.encode(landscape.evaluated[-100:]))[:, problem.axis.column].mean()

    assert macs("soft") < macs("hard")


def test_bounds_that_exclude_each_other_are_infeasible():
    problem = Problem(SPACE, budget_of(macs=300.0, params=1.0))
    with pytest.raises(InfeasibleBudget):
        Reinforce().run(problem, Landscape(0).evaluate, SETTINGS, generator(0, "test"), StrategyContext())
