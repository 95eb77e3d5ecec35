"""Budgets and problems: what networks cost, and which are within the bounds."""

from math import inf

import numpy as np
import pytest

from nasdeploy.core.cost_registry import NETWORK_COSTS, live_elements
from nasdeploy.latency.table import LatencyTable
from nasdeploy.searching.budget import Budget, Range
from nasdeploy.searching.problem import Problem
from tests.latency.tables import SPACE, archs, table
from tests.searching.budgets import at_most, budget_of
from tests.searching.devices import on

TABLE = table()
CODES = SPACE.encode(archs())


def costs_by_name(*tables: LatencyTable) -> dict[str, np.ndarray]:
    """Costs `[n]` of all architectures by name."""
    problem = Problem(SPACE, Budget(), *tables)
    return {one.name: problem.costs(CODES)[:, one.column] for one in problem.quantities}


def test_costs_are_those_of_plans():
    board = on("board", seed=1)
    costs = costs_by_name(TABLE, board)
    plans = [SPACE.plan(arch) for arch in archs()]
    assert costs["latency on cpu"] == pytest.approx([TABLE.predict(plan).seconds for plan in plans])
    assert costs["latency on board"] == pytest.approx([board.predict(plan).seconds for plan in plans])
    assert costs["macs"].tolist() == [plan.macs for plan in plans]
    assert costs["params"].tolist() == [plan.params for plan in plans]
    assert costs["size"].tolist() == [4 * plan.params + 2900 * len(plan.steps) for plan in plans]
    assert costs["memory"].tolist() == [4 * live_elements(plan) for plan in plans]
    assert costs["weights"].tolist() == [4 * plan.params for plan in plans]
    assert set(costs) == {"latency on cpu", "latency on board", *NETWORK_COSTS}


def test_candidates_have_their_costs_by_name():
    problem = Problem(SPACE, Budget(), TABLE)
    named = problem.named(problem.costs(CODES))
    assert [row["macs"] for row in named] == [SPACE.plan(arch).macs for arch in archs()]


def test_file_and_memory_of_fp16_are_half_as_wide():
    whole, half = (costs_by_name(on("board", precision=precision)) for precision in ("fp32", "fp16"))
    assert (whole["size"] - half["size"]).tolist() == (2 * whole["params"]).tolist()
    assert half["memory"].tolist() == (whole["memory"] / 2).tolist()


def test_quantities_are_sums_over_slots_where_they_say_so():
    problem = Problem(SPACE, Budget(), TABLE)
    costs = problem.costs(CODES)
    for quantity in problem.quantities:
        each = [
            [quantity.slot_cost(slot, block) for slot in SPACE.slots if (block := SPACE.block_at(slot, arch))]
            for arch in archs()
        ]
        combined = [quantity.offset + sum(row) if quantity.is_sum else max(row) for row in each]
        assert costs[:, quantity.column] == pytest.approx(combined)
    assert [quantity.name for quantity in problem.quantities if not quantity.is_sum] == ["memory"]


BUDGET = budget_of(
    latency=Range(1.0e-3, 2e-3),
    latency_p95=at_most(1.9e-3),
    macs=Range(60.0, 120.0),
    params=at_most(90.0),
    size=at_most(15_000.0),
    memory=at_most(60.0),
)


def test_feasible_is_within_every_bound():
    problem = Problem(SPACE, BUDGET, TABLE)
    named = problem.named(problem.costs(CODES))
    expected = [
        1.0e-3 <= row["latency on cpu"] <= 2e-3
        and TABLE.p95_ratio * row["latency on cpu"] <= 1.9e-3
        and 60 <= row["macs"] <= 120
        and row["params"] <= 90
        and row["size"] <= 15_000
        and row["memory"] <= 60
        for row in named
    ]
    assert problem.feasible(problem.costs(CODES)).tolist() == expected
    assert 0 < sum(expected) < len(expected)
    assert [problem.allows(row) for row in named] == expected


def test_violation_is_the_sum_of_relative_excesses():
    problem = Problem(SPACE, budget_of(macs=Range(60.0, 120.0), params=at_most(50.0)))
    assert problem.violation(np.array([[90.0, 50.0, 1.0, 1.0, 1.0]])).tolist() == [0.0]
    assert problem.violation(np.array([[30.0, 75.0, 1.0, 1.0, 1.0]])).tolist() == [0.5 + 0.5]
    assert problem.violation(np.array([[180.0, 1.0, 1.0, 1.0, 1.0]])).tolist() == [0.5]
    with_all = Problem(SPACE, BUDGET, TABLE)
    costs = with_all.costs(CODES)
    assert ((with_all.violation(costs) == 0) == with_all.feasible(costs)).all()


def test_axis_is_latency_with_a_table_else_what_is_bounded():
    assert Problem(SPACE, budget_of(params=9.0), TABLE).axis.name == "latency on cpu"
    assert Problem(SPACE, budget_of(macs=9.0, params=9.0)).axis.name == "macs"
    assert Problem(SPACE, budget_of(params=9.0)).axis.name == "params"
    assert Problem(SPACE, budget_of(size=at_most(9.0))).axis.name == "size"
    assert Problem(SPACE, budget_of(memory=at_most(9.0))).axis.name == "macs"


def test_cheapest_are_the_minima_over_all_architectures():
    problem = Problem(SPACE, Budget(), TABLE)
    sums = [one.column for one in problem.quantities if one.is_sum]
    costs = problem.costs(CODES)[:, sums]
    cheapest = problem.costs(SPACE.encode(problem.cheapest()))[:, sums]
    assert np.allclose(cheapest.min(axis=0), costs.min(axis=0))


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        (budget_of(latency=2.5e-3), "2.5 ms"),
        (budget_of(latency=2.5e-3, macs=3e8, params=6e6), "2.5 ms and 300 M MACs and 6 M parameters"),
        (budget_of(macs=Range(1e8, 2e8)), "100..200 M MACs"),
        (budget_of(macs=Range(1e8, inf)), "100.. M MACs"),
        (budget_of(size=at_most(1e6), memory=at_most(2e6)), "1 MB of file size and 2 MB of peak activation memory"),
        (
            Budget(
                {
                    "latency on cpu": at_most(5e-3),
                    "latency on board": at_most(8e-3),
                    "latency_p95 on board": at_most(9e-3),
                }
            ),
            "5 ms on cpu and 8 ms and 9 ms in 95 % of calls on board",
        ),
    ],
)
def test_budgets_in_words(budget, text):
    assert str(budget) == text
