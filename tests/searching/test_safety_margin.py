"""Margins: what is only predicted keeps to the budget with the stated probability."""

from dataclasses import replace
from math import inf
from statistics import NormalDist

import numpy as np
import pytest

from nasdeploy.searching.budget import Budget, Range
from nasdeploy.searching.problem import meets, predicted_budget
from tests.latency.tables import table, timing
from tests.searching.budgets import at_most, budget_of

ENDS = (1e-3, 9e-3)


def with_deviation(deviation: float):
    return table().model_copy(update={"uncertainty": deviation})


def narrowed(budget: Budget, deviation=0.05, slowness=1.0, probability=0.9, reserve=0.0) -> dict[str, Range]:
    made = with_deviation(deviation)
    options = {"probability": probability, "reserve": reserve}
    return predicted_budget(budget, [made], [ENDS], {"cpu": slowness}, **options).on("cpu")


@pytest.mark.parametrize("probability", [0.5, 0.8, 0.9, 0.99])
def test_predictions_at_the_bound_hold_with_the_probability(probability):
    bound = narrowed(budget_of(latency=5e-3), probability=probability)["latency"].high
    errors = 0.05 * np.random.default_rng(0).standard_normal(200_000)
    assert (bound / (1 + errors) <= 5e-3).mean() == pytest.approx(probability, abs=0.003)


def test_without_uncertainty_only_the_reserve_is_taken_off():
    assert narrowed(budget_of(latency=5e-3), deviation=0.0, reserve=0.1)["latency"].high == pytest.approx(4.5e-3)


def test_slow_devices_have_less():
    assert narrowed(budget_of(latency=6e-3), deviation=0.0, slowness=1.5)["latency"].high == pytest.approx(4e-3)
    assert narrowed(budget_of(latency=6e-3), deviation=0.0, slowness=0.5)["latency"].high == pytest.approx(6e-3)


def test_the_fastest_network_is_always_left():
    assert narrowed(budget_of(latency=1.0e-3))["latency"].high == pytest.approx(1e-3)


def test_lower_bounds_rise_unless_that_leaves_nothing():
    z = NormalDist().inv_cdf(0.9)
    wide = narrowed(budget_of(latency=Range(2e-3, 4e-3)))["latency"]
    assert (wide.low, wide.high) == (pytest.approx(2e-3 * (1 + 0.05 * z)), pytest.approx(4e-3 * (1 - 0.05 * z)))
    assert narrowed(budget_of(latency=Range(3.9e-3, 4e-3)))["latency"] == Range(3.9e-3, 4e-3)


def test_p95_has_its_margin_too():
    found = narrowed(budget_of(latency_p95=5e-3))
    assert list(found) == ["latency_p95"]
    assert found["latency_p95"].high == pytest.approx(5e-3 * (1 - 0.05 * NormalDist().inv_cdf(0.9)))


def test_what_is_measured_is_judged_by_every_bound_and_the_reserve():
    measured = replace(timing(4e-3), p95=5e-3)
    assert meets(measured, {"latency": at_most(4e-3), "latency_p95": at_most(5e-3)}, 0.0)
    assert not meets(measured, {"latency": at_most(4e-3)}, 0.01)
    assert not meets(measured, {"latency_p95": at_most(4.9e-3)}, 0.0)
    assert not meets(measured, {"latency": Range(4.1e-3, inf)}, 0.0)
    assert meets(measured, {}, 0.5)
