"""The scripts that measure are run by hand, on a quiet machine; that what they use is still there is tested here."""

from importlib import import_module
from pathlib import Path

import pytest

SCRIPTS = sorted(Path(__file__).with_name("benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", [path.stem for path in SCRIPTS])
def test_a_script_that_measures_finds_what_it_uses(name):
    module = import_module(f"tests.benchmarks.{name}")
    assert module.__doc__, f"{name} does not say what it measures"
    assert callable(getattr(module, "main", None)) or not name.startswith("bench_")
