"""Bounds as a user types them."""

import pytest

from nasdeploy.cli.budget import bounds_of
from nasdeploy.cli.search import strategy_of
from nasdeploy.core.errors import UserError
from nasdeploy.workflows.request import Bounds


def test_bounds_are_those_that_were_given() -> None:
    assert bounds_of(None, None, None, None, None, None, None) == Bounds()
    assert bounds_of(["cpu=5"], ["6"], ["pi=40%"], "300", "0", "2", "1..2") == Bounds(
        latency=("cpu=5", "pi=40%"), p95=("6",), macs_m="300", params_m="0", size_mb="2", memory_mb="1..2"
    )


def test_parts_of_the_range_are_no_milliseconds() -> None:
    with pytest.raises(UserError, match=r"--latency-ms 40%: give milliseconds; a part of the range is --latency 40%"):
        bounds_of(["40%"], None, None, None, None, None, None)


@pytest.mark.parametrize("text", ["40", "cpu=0.4", "40 percent", "", "1e3"])
def test_a_part_of_the_range_has_its_unit(text: str) -> None:
    with pytest.raises(UserError, match=r"give a part of the range, such as 40%; write milliseconds with --latency-ms"):
        bounds_of(None, None, [text], None, None, None, None)


def test_a_strategy_is_changed_for_one_call() -> None:
    assert strategy_of(None) == []
    assert strategy_of("evolution") == ["search.strategy=evolution"]


def test_an_unknown_strategy_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError) as error:
        strategy_of("evolutoin")
    assert str(error.value) == "--strategy evolutoin: unknown search strategy; did you mean 'evolution'?"
