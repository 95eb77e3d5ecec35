"""Bounds as users write them."""

from math import inf

import pytest

from nasdeploy.core.cost_registry import COSTS
from nasdeploy.core.errors import UserError
from nasdeploy.searching.budget import Range, is_latency, parse_amount, parse_latency, split_device
from tests.wording import assert_stops


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("2.5ms", 0, 2.5e-3),
        ("2.5", 0, 2.5e-3),
        ("1e-6", 0, 1e-9),
        ("0%", 0, 1e-3),
        ("40%", 0, 1.8e-3),
        ("100%", 0, 3e-3),
        ("2..2.5ms", 2e-3, 2.5e-3),
        ("20%..2.5", 1.4e-3, 2.5e-3),
        ("2..", 2e-3, inf),
        ("..3", 0, 3e-3),
    ],
)
def test_latency_budgets(text, low, high):
    found = parse_latency(text, (1e-3, 3e-3))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize("text", ["", "fast", "-1", "101%", "5 s", "nan", "inf", "1e999", "..", "1..2..3", "cpu"])
def test_other_texts_are_refused_with_an_example(text):
    with pytest.raises(UserError, match=r"latency budget '.*': (write milliseconds|at most 100%|a range has a bound)"):
        parse_latency(text, (1e-3, 3e-3))


def test_amounts():
    assert parse_amount(COSTS["macs"], "300") == Range(0.0, 300e6)
    assert parse_amount(COSTS["macs"], "100..200") == Range(100e6, 200e6)
    assert parse_amount(COSTS["macs"], "0") == Range(0.0, 0.0)


@pytest.mark.parametrize("text", ["nan", "inf", "-1", "many", "1e999", "40%"])
def test_amounts_that_bound_nothing_are_refused(text):
    with assert_stops(UserError, match=rf"--size-mb {text}: give a finite number that is not negative, such as 5"):
        parse_amount(COSTS["size"], text)


def test_devices_before_bounds():
    assert split_device("5") == (None, "5")
    assert split_device("cpu=40%") == ("cpu", "40%")
    assert split_device("boards/a=b.yaml=5..6ms") == ("boards/a=b.yaml", "5..6ms")
    for text in ("=5", " =40%"):
        with pytest.raises(UserError, match="no device stands before '='"):
            split_device(text)


@pytest.mark.parametrize(
    ("text", "right"),
    [("2.5ms", True), ("40%", True), ("2ms..40%", True), ("2.5", False), ("fast", False), ("..", False), ("", False)],
)
def test_latencies_in_recipes_have_units(text, right):
    assert is_latency(text) is right
