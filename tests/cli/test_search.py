"""Bounds as a user types them."""

import pytest

from nasdeploy.cli.search import bounds_of, strategy_of
from nasdeploy.errors import UserError
from nasdeploy.search.budget import parse_latency
from nasdeploy.steps.request import Bounds


def test_bounds_are_those_that_were_given() -> None:
    assert bounds_of(None, None, None, None) == Bounds()
    assert bounds_of(None, "40%", 300.0, 0.0) == Bounds("40%", 300.0, 0.0)


@pytest.mark.parametrize("milliseconds", [0.0, 2.5, 0.0123456789, 1e9])
def test_milliseconds_lose_nothing(milliseconds: float) -> None:
    latency = bounds_of(milliseconds, None, None, None).latency
    assert latency is not None
    assert parse_latency(latency, (1.0, 2.0)) == pytest.approx(milliseconds / 1e3, rel=1e-12)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize("option", ["--latency-ms", "--macs-m", "--params-m"])
def test_numbers_that_bound_nothing_are_refused(option: str, number: float) -> None:
    given = {name: number if name == option else None for name in ("--latency-ms", "--macs-m", "--params-m")}
    with pytest.raises(UserError, match=f"{option} {number}: give a finite number"):
        bounds_of(given["--latency-ms"], None, given["--macs-m"], given["--params-m"])


def test_a_strategy_is_changed_for_one_call() -> None:
    assert strategy_of(None) == []
    assert strategy_of("evolution") == ["search.strategy=evolution"]


def test_an_unknown_strategy_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError) as error:
        strategy_of("evolutoin")
    assert str(error.value) == "--strategy evolutoin: unknown search strategy; did you mean 'evolution'?"
