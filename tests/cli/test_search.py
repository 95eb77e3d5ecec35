"""Bounds as a user types them."""

import pytest
from typer.testing import CliRunner

from nasdeploy.cli.app import app
from nasdeploy.cli.search import asked_of, preference_of, strategy_of
from nasdeploy.cli.wording import OPTIONS, typed
from nasdeploy.core.cost_registry import COSTS
from nasdeploy.core.errors import UserError
from tests.wording import assert_stops


def test_bounds_are_those_that_were_given() -> None:
    assert asked_of({}) == asked_of({"latency_ms": None, "macs_m": None}) == {}
    given = {"latency_ms": ["cpu=5"], "latency_p95_ms": ["6"], "latency": ["pi=40%"], "macs_m": "300", "params_m": "0"}
    assert asked_of({**given, "size_mb": "2", "memory_mb": "1..2", "weights_mb": "3"}) == {
        "latency": ("cpu=5", "pi=40%"),
        "latency_p95": ("6",),
        "macs": ("300",),
        "params": ("0",),
        "size": ("2",),
        "memory": ("1..2",),
        "weights": ("3",),
    }


@pytest.mark.parametrize("command", ["search", "run"])
def test_every_cost_has_an_option(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"], catch_exceptions=False).stdout
    for cost in COSTS.values():
        assert f"  {OPTIONS[cost.key]} " in shown
        assert cost.help in " ".join(shown.split())


def test_parts_of_the_range_are_no_milliseconds() -> None:
    with assert_stops(UserError, match=r"--latency-ms 40%: give milliseconds, or write --latency 40%"):
        asked_of({"latency_ms": ["40%"]})


@pytest.mark.parametrize("text", ["40", "cpu=0.4", "40 percent", "", "1e3"])
def test_a_part_of_the_range_has_its_unit(text: str) -> None:
    with assert_stops(
        UserError, match=r"such as 0.5x, or a part of the range, such as 40%; write milliseconds with --latency-ms"
    ):
        asked_of({"latency": [text]})


def test_a_strategy_is_changed_for_one_call() -> None:
    assert strategy_of(None) == []
    assert strategy_of("evolution") == ["search.strategy=evolution"]


def test_what_is_preferred_is_changed_for_one_call() -> None:
    assert preference_of(None) == []
    assert preference_of("fast") == ["search.prefer=fast"]
    with pytest.raises(UserError, match=r"^--prefer small: give accurate or fast$"):
        preference_of("small")


def test_an_unknown_strategy_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError) as error:
        strategy_of("evolutoin")
    assert typed(error.value) == "--strategy evolutoin: unknown search strategy; did you mean 'evolution'?"
