"""`kill -9` of whole training processes; `tests/benchmarks/bench_kill.py` does the same more often."""

from pathlib import Path

import pytest

from tests.benchmarks.bench_kill import same, survived


@pytest.mark.slow
def test_killed_runs_end_as_an_undisturbed_one(tmp_path: Path) -> None:
    assert survived(tmp_path, kills=2, epochs=2, seed=0) == 2


@pytest.mark.slow
def test_a_killed_run_of_two_phases_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    assert survived(tmp_path, kills=1, epochs=2, seed=1, phased=True) == 1


def test_a_difference_is_noticed() -> None:
    assert same({"a": [1.0, (2, None)]}, {"a": [1.0, (2, None)]})
    assert not same({"a": [1.0, (2, None)]}, {"a": [1.0, (2, 0)]})
    assert not same({"a": 1}, {"a": 1, "b": 2})
    assert not same({"a": 1}, {"a": 1.0})
