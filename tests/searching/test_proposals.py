"""New architectures within a budget, whatever it looks like."""

import numpy as np
import pytest

from nasdeploy.core.cost_registry import macs
from nasdeploy.core.counting.chain import extremes
from nasdeploy.core.randomness import generator
from nasdeploy.searching.budget import Budget, Range
from nasdeploy.searching.problem import Problem
from nasdeploy.searching.proposals import Proposals
from nasdeploy.spaces import load_space
from tests.searching.budgets import budget_of
from tests.small_spaces import LayerwiseSpace, ToySpace, every_code

ALPHANET = load_space("alphanet")
CHEAPEST, DEAREST = (extreme.cost for extreme in extremes(ALPHANET, macs))


@pytest.mark.parametrize("low", [0.0, 0.05, 0.6, 0.98])
def test_random_ones_are_spread_evenly_over_a_narrow_range(low):
    bound = Range(*(CHEAPEST + part * (DEAREST - CHEAPEST) for part in (low, low + 0.01)))
    problem = Problem(ALPHANET, budget_of(macs=bound))
    costs = np.sort(problem.costs(ALPHANET.encode(Proposals(problem, generator(0)).random(64)))[:, 0])
    assert len(costs) == 64
    assert bound.low <= costs[0] and costs[-1] <= bound.high
    # Of the space's 4 x 10^11 architectures, few are at its ends.
    even = np.linspace(costs[0], costs[-1], 64)
    assert np.abs(costs - even).max() < 0.2 * (bound.high - bound.low)


@pytest.mark.parametrize(
    "budget",
    [
        budget_of(macs=Range(high=300e6), params=Range(high=9.5e6)),
        budget_of(macs=Range(400e6, 420e6), params=Range(high=10e6), memory=Range(high=8e6)),
    ],
)
def test_random_ones_keep_to_several_bounds(budget):
    problem = Problem(ALPHANET, budget)
    drawn = Proposals(problem, generator(0)).random(100)
    assert len(set(drawn)) == 100
    assert problem.feasible(problem.costs(ALPHANET.encode(drawn))).all()


def test_descendants_of_few_parents_at_the_end_of_the_range():
    problem = Problem(ALPHANET, budget_of(macs=Range(high=CHEAPEST + 0.01 * (DEAREST - CHEAPEST))))
    candidates = Proposals(problem, generator(0))
    parents = candidates.random(8)
    children = [*candidates.mutations(parents, 50, 0.2), *candidates.crossovers(parents, 5)]
    # Mutations that redraw six choices of 32 at random are far beyond this budget, all of them.
    assert len(children) >= 50
    assert problem.feasible(problem.costs(ALPHANET.encode(children))).all()
    assert not set(children) & set(parents)


def test_all_of_a_small_space_come_once():
    space = ToySpace()
    problem = Problem(space, budget_of(macs=Range(high=150.0)))
    codes = every_code(space)
    every = set(space.decode(codes[problem.feasible(problem.costs(codes))]))
    candidates = Proposals(problem, generator(0))
    found = candidates.random(1000)
    assert len(found) == len(set(found))
    found += candidates.mutations(found, 1000, 0.5)
    assert len(found) == len(set(found))
    assert set(found) == every


def test_random_ones_of_a_space_that_is_never_enumerated():
    space = LayerwiseSpace()
    problem = Problem(space, budget_of(macs=Range(high=1.1 * extremes(space, macs)[0].cost)))
    drawn = Proposals(problem, generator(0)).random(50)
    assert len(drawn) == 50
    assert problem.feasible(problem.costs(space.encode(drawn))).all()


def test_what_is_put_back_may_come_again_and_nothing_else_does():
    candidates = Proposals(Problem(ToySpace(), Budget()), generator(0, "test"))

    def rest():
        return [arch for _ in range(5) for arch in candidates.random(10**4)]

    drawn = rest()
    assert len(drawn) > 100 and rest() == []
    candidates.put_back(drawn[:7])
    assert set(rest()) == set(drawn[:7])
