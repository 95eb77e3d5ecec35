"""Budgets that cannot be met are refused with what can be reached, and no others."""

import re

import numpy as np
import pytest

from nasdeploy.core.errors import InfeasibleBudget
from nasdeploy.searching.budget import Budget, Range
from nasdeploy.searching.feasibility import is_reachable, reachable_range, require_feasible
from nasdeploy.searching.problem import Problem
from tests.latency.tables import SPACE, archs, table
from tests.searching.budgets import at_most, budget_of, on_devices
from tests.searching.devices import on

TABLE = table()
OTHER = on("board", seed=1)
CODES = SPACE.encode(archs())
PROBLEM = Problem(SPACE, Budget(), TABLE, OTHER)
COSTS = PROBLEM.costs(CODES)


def test_reachable_ranges_are_those_of_all_architectures():
    for quantity in PROBLEM.quantities:
        costs = COSTS[:, quantity.column]
        assert reachable_range(PROBLEM, quantity) == pytest.approx((costs.min(), costs.max()))


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (budget_of(latency=1e-9), "latency of 1e-06 ms or less"),
        (
            budget_of(latency_p95=1e-9),
            r"median latency \(p95: 1.03 times that\) of 9.709e-07 ms or less",
        ),
        (budget_of(macs=1.0), "MACs of 1e-06 M or less"),
        (budget_of(macs=Range(1e9, 2e9)), "MACs of 1000 M or more"),
        (budget_of(macs=Range(200.0, 100.0)), "MACs of 0.0002 M or more and 0.0001 M or less"),
        (budget_of(params=1.0), "parameters of 1e-06 M or less"),
        (budget_of(size=at_most(10.0)), "file size of 1e-05 MB or less"),
        (budget_of(memory=at_most(10.0)), "peak activation memory of 1e-05 MB or less"),
    ],
)
def test_impossible_bounds_are_refused_with_the_range(budget, words):
    with pytest.raises(InfeasibleBudget, match=words) as refused:
        require_feasible(Problem(SPACE, budget, TABLE))
    assert re.search(
        r"the space reaches from \S+ M?B?m?s? ?to \S+ \S+: give a budget in that range", str(refused.value)
    )
    assert refused.value.exit_code == 3


def test_a_device_that_cannot_meet_its_budget_is_named():
    budget = on_devices(cpu=1.0, board=1e-9)
    with pytest.raises(InfeasibleBudget, match=r"has latency on board of 1e-06 ms or less; .* from"):
        require_feasible(Problem(SPACE, budget, TABLE, OTHER))


def test_the_fastest_network_itself_is_feasible():
    fastest, _ = TABLE.range(SPACE)
    problem = Problem(SPACE, budget_of(latency=fastest), TABLE)
    require_feasible(problem)
    assert is_reachable(problem)


def test_bounds_that_exclude_each_other_are_refused_with_what_is_left():
    macs, params = COSTS[:, 2], COSTS[:, 3]
    few, cheap = params <= np.quantile(params, 0.1), macs >= np.quantile(macs, 0.9)
    assert not (few & cheap).any()
    budget = budget_of(macs=Range(float(macs[cheap].min()), 1e9), params=at_most(float(params[few].max())))
    with pytest.raises(InfeasibleBudget, match=r"no network was found within .*; each bound can be met") as refused:
        require_feasible(Problem(SPACE, budget))
    reached = macs[params <= params[few].max()].max()
    assert f"within the others MACs reaches up to {reached / 1e6:.4g} M" in str(refused.value)
    reached = params[macs >= macs[cheap].min()].min()
    assert f"within the others parameters reaches down to {reached / 1e6:.4g} M" in str(refused.value)
    assert str(refused.value).count("within the others") == 2


@pytest.mark.parametrize("seed", range(20))
def test_whatever_some_network_meets_is_accepted(seed):
    draw = np.random.default_rng(seed)
    row = COSTS[draw.integers(len(COSTS))]
    budget = Budget(
        {
            "latency on cpu": Range(0.99 * row[0], 1.01 * row[0]),
            "latency on board": at_most(float(row[1])),
            "macs": Range(float(row[2]), float(row[2])),
            "memory": at_most(float(row[PROBLEM.quantity("memory").column])),
        }
    )
    problem = Problem(SPACE, budget, TABLE, OTHER)
    require_feasible(problem)
    assert is_reachable(problem)
