"""`kill -9` of whole searches; `tests/benchmarks/bench_search_kill.py` does the same more often."""

from pathlib import Path

import pytest

from tests.benchmarks.bench_search_kill import survived


@pytest.mark.slow
def test_killed_searches_lose_and_repeat_nothing(tmp_path: Path) -> None:
    assert survived(tmp_path, kills=2, seed=0) == 2
