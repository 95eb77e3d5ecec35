"""Budgets: what is written, what is feasible, and what is refused with the reachable range."""

import numpy as np
import pytest

from nasdeploy.errors import InfeasibleBudget, UserError
from nasdeploy.search.budget import Budget, Problem, parse_latency, require_feasible
from tests.latency.tables import SPACE, archs, table

TABLE = table()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2.5ms", 2.5e-3), ("2.5", 2.5e-3), ("0%", 1e-3), ("40%", 1.8e-3), ("100%", 3e-3), ("3", 3e-3)],
)
def test_latency_budgets(text, seconds):
    assert parse_latency(text, (1e-3, 3e-3)) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "fast", "-1", "1e3", "101%", "5 s", "nan"])
def test_other_texts_are_refused_with_an_example(text):
    with pytest.raises(UserError, match=r"latency budget '.*': (write milliseconds|at most 100%)"):
        parse_latency(text, (1e-3, 3e-3))


def test_costs_are_those_of_plans():
    problem = Problem(SPACE, Budget(), TABLE)
    every = archs()
    costs = problem.costs(SPACE.encode(every))
    plans = [SPACE.plan(arch) for arch in every]
    assert costs[:, 0] == pytest.approx([TABLE.predict(plan).seconds for plan in plans])
    assert costs[:, 1].tolist() == [plan.macs for plan in plans]
    assert costs[:, 2].tolist() == [plan.params for plan in plans]


def test_feasible_is_within_every_bound():
    every = archs()
    budget = Budget(latency=1.5e-3, macs=120.0, params=90.0)
    problem = Problem(SPACE, budget, TABLE)
    costs = problem.costs(SPACE.encode(every))
    expected = [row[0] <= 1.5e-3 and row[1] <= 120 and row[2] <= 90 for row in costs]
    assert problem.feasible(costs).tolist() == expected
    assert 0 < sum(expected) < len(every)


def test_axis_is_latency_with_a_table_else_what_is_bounded():
    assert Problem(SPACE, Budget(params=9.0), TABLE).axis == 0
    assert Problem(SPACE, Budget(macs=9.0, params=9.0), None).axis == 1
    assert Problem(SPACE, Budget(params=9.0), None).axis == 2


def test_cheapest_are_the_minima_over_all_architectures():
    problem = Problem(SPACE, Budget(), TABLE)
    costs = problem.costs(SPACE.encode(archs()))
    cheapest = problem.costs(SPACE.encode(problem.cheapest()))
    assert np.allclose(cheapest.min(axis=0), costs.min(axis=0))


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (Budget(latency=1e-9), "latency of 1e-06 ms or less"),
        (Budget(macs=1.0), "MACs of 1e-06 M or less"),
        (Budget(params=1.0), "parameters of 1e-06 M or less"),
    ],
)
def test_impossible_bounds_are_refused_with_the_range(budget, words):
    with pytest.raises(InfeasibleBudget, match=words) as refused:
        require_feasible(SPACE, budget, TABLE)
    assert "reaches from" in str(refused.value)
    assert refused.value.exit_code == 3


def test_the_fastest_network_itself_is_feasible():
    fastest, _ = TABLE.range(SPACE)
    require_feasible(SPACE, Budget(latency=fastest), TABLE)
    assert Problem(SPACE, Budget(latency=fastest * (1 + 1e-9)), TABLE).allows((fastest, 0.0, 0.0))
