"""What is beyond a budget becomes feasible, with as few changes as that takes."""

import numpy as np
import pytest

from nasdeploy.core.randomness import generator
from nasdeploy.searching.budget import Range
from nasdeploy.searching.problem import Problem
from nasdeploy.searching.proposals import repaired
from nasdeploy.spaces import load_space
from tests.searching.budgets import budget_of
from tests.small_spaces import ToySpace, every_code

SPACE = ToySpace()
CODES = every_code(SPACE)


def test_what_is_feasible_stays_as_it_is():
    problem = Problem(SPACE, budget_of(macs=Range(high=200.0)))
    feasible = CODES[problem.feasible(problem.costs(CODES))]
    assert np.array_equal(repaired(problem, feasible, generator(0)), feasible)


@pytest.mark.parametrize(
    "budget",
    [
        budget_of(macs=Range(high=80.0)),
        budget_of(macs=Range(100.0, 130.0)),
        budget_of(macs=Range(low=600.0)),
        budget_of(macs=Range(100.0, 300.0), params=Range(high=70.0)),
    ],
)
def test_almost_all_become_feasible(budget):
    problem = Problem(SPACE, budget)
    feasible = problem.feasible(problem.costs(CODES))
    assert 0 < feasible.mean() < 0.3
    found = repaired(problem, CODES, generator(0))
    assert problem.feasible(problem.costs(found)).all()
    assert len(found) >= 0.85 * len(CODES)


def test_as_close_to_the_bound_as_single_changes_come():
    space = load_space("alphanet")
    problem = Problem(space, budget_of(macs=Range(high=400e6)))
    codes = space.sample_codes(500, generator(0))
    codes = codes[~problem.feasible(problem.costs(codes))]
    costs = problem.costs(repaired(problem, codes, generator(1)))[:, 0]
    assert len(costs) == len(codes)
    assert np.median(costs) > 0.85 * 400e6


def test_bounds_that_exclude_each_other_leave_nothing():
    problem = Problem(SPACE, budget_of(macs=Range(high=90.0), params=Range(high=1.0)))
    assert len(repaired(problem, CODES, generator(0))) == 0
    assert len(repaired(problem, CODES[:0], generator(0))) == 0
