"""Signals reach a process whatever sessions it has opened and closed: Ctrl-C, and the end of a data loader's worker."""

import subprocess
import sys
from pathlib import Path

import pytest

from nasdeploy.runtimes import RUNTIMES
from tests.conformance.runtime_models import FILES, small_bytes, written
from tests.conformance.test_formats import DIGITS, FORMATS, contents, network_of
from tests.conformance.test_runtimes import usable

ROOT = Path(__file__).parents[2]


def marks(name: str) -> list[pytest.MarkDecorator]:
    gpu = [pytest.mark.gpu] if RUNTIMES[name].needs_gpu else []
    return gpu + ([pytest.mark.slow] if RUNTIMES[name].form == "program" else [])


def model_of(name: str, folder: Path) -> str:
    """A file that the runtime opens; none for one that opens modules."""
    form = RUNTIMES[name].form
    if form == "module":
        return ""
    if form in FILES:
        (folder / name).mkdir()
        return str(written(form, small_bytes(form), folder / name))
    file = folder / f"{name}.model"
    (content,) = contents(FORMATS[name], network_of(DIGITS, DIGITS.smallest()), "fp32").values()
    file.write_bytes(content)
    return str(file)


def assert_signals_are_handled(names: list[str], folder: Path) -> None:
    arguments = [f"{name}={model_of(name, folder)}" for name in names]
    command = [sys.executable, "-m", "tests.conformance.signalled", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    last = done.stdout.splitlines()[-1:]
    assert (done.returncode, last) == (0, ["done"]), f"at {last}: {done.stderr[-2000:]}"


@pytest.mark.parametrize("name", [pytest.param(name, marks=marks(name)) for name in RUNTIMES])
def test_two_sessions_of_a_runtime_in_every_order(name: str, tmp_path: Path) -> None:
    usable(name)
    assert_signals_are_handled([name], tmp_path)


def test_sessions_of_each_two_runtimes_in_every_order(tmp_path: Path) -> None:
    quick = [name for name, runtime in RUNTIMES.items() if runtime.form != "program"]
    here = [name for name in quick if not (RUNTIMES[name].missing() or RUNTIMES[name].obstacle())]
    assert len(here) > 1
    assert_signals_are_handled(here, tmp_path)
