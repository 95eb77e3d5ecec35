"""Bounds as users write them."""

from math import inf

import pytest

from nasdeploy.core.cost_registry import COSTS
from nasdeploy.core.errors import UserError
from nasdeploy.searching.budget import (
    DeviceLatencies,
    Range,
    is_latency,
    parse_amount,
    parse_latency,
    relative_to_device,
    split_device,
)
from tests.wording import assert_stops

REACH = DeviceLatencies(1e-3, 3e-3, 2.8e-3)


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
        ("0.5x", 0, 1.4e-3),
        ("1x..", 2.8e-3, inf),
        ("40%..1x", 1.8e-3, 2.8e-3),
    ],
)
def test_latency_budgets(text, low, high):
    found = parse_latency(text, REACH)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize(
    "text", ["", "fast", "-1", "101%", "5 s", "nan", "inf", "1e999", "..", "1..2..3", "cpu", "x", "0.5 x", "x0.5"]
)
def test_other_texts_are_refused_with_an_example(text):
    with pytest.raises(UserError, match=r"latency budget '.*': (write milliseconds|at most 100%|a range has a bound)"):
        parse_latency(text, REACH)


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
    [
        ("2.5ms", True),
        ("40%", True),
        ("2ms..40%", True),
        ("0.5x", True),
        ("..1x", True),
        ("2.5", False),
        ("fast", False),
        ("..", False),
        ("", False),
    ],
)
def test_latencies_in_recipes_have_units(text, right):
    assert is_latency(text) is right


@pytest.mark.parametrize(
    ("text", "is_so"), [("40%", True), ("2..0.5x", True), ("2.5ms", False), ("2", False), ("x", False)]
)
def test_what_depends_on_the_device_is_known(text, is_so):
    assert relative_to_device(text) is is_so


def test_all_of_a_reach_are_multiplied():
    assert DeviceLatencies(1.0, 3.0, 2.5).times(2.0) == DeviceLatencies(2.0, 6.0, 5.0)
