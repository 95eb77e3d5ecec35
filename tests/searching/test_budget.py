"""Budgets and problems: what networks cost, and which are within the bounds."""

from math import inf

import numpy as np
import pytest

from nasdeploy.searching.budget import Budget, LatencyLimit, Range, at_most
from nasdeploy.searching.footprint import live_elements
from nasdeploy.searching.problem import Problem
from tests.latency.tables import SPACE, archs, table
from tests.searching.devices import on

TABLE = table()
CODES = SPACE.encode(archs())


def test_costs_are_those_of_plans():
    costs = Problem(SPACE, Budget(), TABLE, on("board", seed=1)).costs(CODES)
    plans = [SPACE.plan(arch) for arch in archs()]
    assert costs[:, 0] == pytest.approx([TABLE.predict(plan).seconds for plan in plans])
    assert costs[:, 1] == pytest.approx([on("board", seed=1).predict(plan).seconds for plan in plans])
    assert costs[:, 2].tolist() == [plan.macs for plan in plans]
    assert costs[:, 3].tolist() == [plan.params for plan in plans]
    assert costs[:, 4].tolist() == [4 * plan.params + 2900 * len(plan.steps) for plan in plans]
    assert costs[:, 5].tolist() == [4 * live_elements(plan) for plan in plans]


def test_file_and_memory_of_fp16_are_half_as_wide():
    whole, half = (
        Problem(SPACE, Budget(), on("board", precision=precision)).costs(CODES) for precision in ("fp32", "fp16")
    )
    params = whole[:, 2]
    assert (whole[:, 3] - half[:, 3]).tolist() == (2 * params).tolist()
    assert half[:, 4].tolist() == (whole[:, 4] / 2).tolist()


def test_quantities_are_sums_over_slots_where_they_say_so():
    problem = Problem(SPACE, Budget(), TABLE)
    costs = problem.costs(CODES)
    for column, quantity in enumerate(problem.quantities[:-1]):
        sums = [
            quantity.offset
            + sum(quantity.slot_cost(slot, block) for slot in SPACE.slots if (block := SPACE.block_at(slot, arch)))
            for arch in archs()
        ]
        assert costs[:, column] == pytest.approx(sums)
    assert problem.quantities[-1].slot_cost is None


BUDGET = Budget(
    {"cpu": LatencyLimit(Range(1.0e-3, 2e-3), at_most(1.9e-3))},
    macs=Range(60.0, 120.0),
    params=at_most(90.0),
    size=at_most(15_000.0),
    memory=at_most(60.0),
)


def test_feasible_is_within_every_bound():
    problem = Problem(SPACE, BUDGET, TABLE)
    costs = problem.costs(CODES)
    expected = [
        1.0e-3 <= row[0] <= 2e-3
        and TABLE.p95_ratio * row[0] <= 1.9e-3
        and 60 <= row[1] <= 120
        and row[2] <= 90
        and row[3] <= 15_000
        and row[4] <= 60
        for row in costs
    ]
    assert problem.feasible(costs).tolist() == expected
    assert 0 < sum(expected) < len(expected)
    assert [problem.allows(row) for row in costs] == expected


def test_violation_is_the_sum_of_relative_excesses():
    problem = Problem(SPACE, Budget(macs=Range(60.0, 120.0), params=at_most(50.0)))
    assert problem.violation(np.array([[90.0, 50.0, 1.0, 1.0]])).tolist() == [0.0]
    assert problem.violation(np.array([[30.0, 75.0, 1.0, 1.0]])).tolist() == [0.5 + 0.5]
    assert problem.violation(np.array([[180.0, 1.0, 1.0, 1.0]])).tolist() == [0.5]
    with_all = Problem(SPACE, BUDGET, TABLE)
    costs = with_all.costs(CODES)
    assert ((with_all.violation(costs) == 0) == with_all.feasible(costs)).all()


def test_axis_is_latency_with_a_table_else_what_is_bounded():
    assert Problem(SPACE, Budget.at_most(params=9.0), TABLE).axis == 0
    assert Problem(SPACE, Budget.at_most(macs=9.0, params=9.0)).axis == 0
    assert Problem(SPACE, Budget.at_most(params=9.0)).axis == 1
    assert Problem(SPACE, Budget(size=at_most(9.0))).axis == 2
    assert Problem(SPACE, Budget(memory=at_most(9.0))).axis == 0


def test_cheapest_are_the_minima_over_all_architectures():
    problem = Problem(SPACE, Budget(), TABLE)
    costs = problem.costs(CODES)[:, :-1]
    cheapest = problem.costs(SPACE.encode(problem.cheapest()))[:, :-1]
    assert np.allclose(cheapest.min(axis=0), costs.min(axis=0))


@pytest.mark.parametrize(
    ("budget", "text"),
    [
        (Budget.at_most(latency=2.5e-3), "2.5 ms"),
        (Budget.at_most(latency=2.5e-3, macs=3e8, params=6e6), "2.5 ms and 300 M MACs and 6 M parameters"),
        (Budget(macs=Range(1e8, 2e8)), "100..200 M MACs"),
        (Budget(macs=Range(1e8, inf)), "100.. M MACs"),
        (Budget(size=at_most(1e6), memory=at_most(2e6)), "1 MB of file size and 2 MB of peak activation memory"),
        (
            Budget({"cpu": LatencyLimit(at_most(5e-3)), "board": LatencyLimit(at_most(8e-3), at_most(9e-3))}),
            "5 ms on cpu and 8 ms and 9 ms in 95 % of calls on board",
        ),
    ],
)
def test_budgets_in_words(budget, text):
    assert str(budget) == text
