"""Sizes of feasible sets, against enumeration."""

from math import inf

import numpy as np
import pytest

from nasdeploy.core.cost_registry import macs
from nasdeploy.core.costs import Costs
from nasdeploy.searching.budget import Budget, Range
from nasdeploy.searching.feasibility import FeasibleSize, feasible_size
from nasdeploy.searching.problem import Problem
from nasdeploy.spaces import load_space
from tests.latency.tables import SPACE, table
from tests.searching.budgets import budget_of
from tests.small_spaces import LayerwiseSpace, ToySpace, every_code

TABLE = table()
CODES = every_code(SPACE)


def enumerated(problem: Problem) -> int:
    return int(problem.feasible(problem.costs(CODES)).sum())


@pytest.mark.parametrize(
    "budget",
    [
        budget_of(macs=Range(high=200.0)),
        budget_of(params=Range(60.0, 90.0)),
        budget_of(latency=Range(high=3e-3)),
        budget_of(latency=Range(2e-3, 4e-3)),
        budget_of(latency_p95=Range(high=3e-3)),
        budget_of(macs=Range(high=1.0)),
    ],
)
def test_one_bound_on_a_sum_is_counted_but_for_what_is_near_it(budget):
    problem = Problem(SPACE, budget, TABLE)
    found, expected = feasible_size(problem), enumerated(problem)
    assert abs(found.count - expected) <= 0.5 + 4 * found.standard_error
    assert found.standard_error < 0.01 * SPACE.size
    assert found.share == found.count / SPACE.size


def test_no_bound_leaves_all():
    assert feasible_size(Problem(SPACE, Budget(), TABLE)) == FeasibleSize(SPACE.size, 1.0, 0.0)


@pytest.mark.parametrize(
    "budget",
    [
        budget_of(macs=Range(high=200.0), params=Range(high=70.0)),
        budget_of(latency=Range(high=3e-3), macs=Range(low=100.0)),
        budget_of(memory=Range(high=44.0)),
        budget_of(macs=Range(high=300.0), memory=Range(high=44.0)),
    ],
)
def test_several_bounds_are_estimated_with_their_error(budget):
    problem = Problem(SPACE, budget, TABLE)
    found, expected = feasible_size(problem), enumerated(problem)
    assert 0 < expected < SPACE.size
    assert abs(found.count - expected) <= 0.5 + 4 * found.standard_error
    assert 0 < found.standard_error < 0.05 * SPACE.size
    assert found.share == found.count / SPACE.size


def test_bounds_that_exclude_each_other_leave_none():
    found = feasible_size(Problem(ToySpace(), budget_of(macs=Range(high=90.0), params=Range(high=1.0))))
    assert found.count == 0 and found.share == 0


def test_a_space_that_is_never_enumerated():
    space = LayerwiseSpace()
    drawn = Costs(space, [macs])(space.sample_codes(100_000, np.random.default_rng(0)))[:, 0]
    found = feasible_size(Problem(space, budget_of(macs=Range(high=float(np.quantile(drawn, 0.3))))))
    assert found.share == pytest.approx(0.3, abs=0.01)
    assert 0 < found.standard_error < 0.01 * found.count


@pytest.mark.parametrize("bound", [400e6, inf])
def test_alphanet(bound):
    problem = Problem(load_space("alphanet"), budget_of(macs=Range(1.0, bound)))
    found = feasible_size(problem)
    assert found.standard_error < 0.01 * found.count
    costs = problem.costs(problem.space.sample_codes(20_000, np.random.default_rng(0)))
    assert problem.feasible(costs).mean() == pytest.approx(found.share, abs=0.01)
