"""No runtime reaches for a network: neither its package, nor its converter, nor a process that one of them starts."""

import sys
from collections.abc import Mapping

import pytest

from nasdeploy.runtimes import RUNTIMES
from tests.watched import lacking, run_watched

pytestmark = [pytest.mark.slow, pytest.mark.skipif(lacking() is not None, reason=str(lacking()))]
# A program for ExecuTorch takes half a minute to convert.
NAMES = [name for name, runtime in RUNTIMES.items() if not runtime.needs_gpu and runtime.form != "program"]
IMPORTS = "imports"


@pytest.fixture(scope="module")
def attempts(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """What was tried, by runtime, and by what is imported before any; in one process, since PyTorch takes so long."""
    folder = tmp_path_factory.mktemp("offline")
    here = [name for name in NAMES if not (RUNTIMES[name].missing() or RUNTIMES[name].obstacle())]
    command = [sys.executable, "-m", "tests.conformance.offline", str(folder), *here]
    done = run_watched(command, folder, folder / f"{IMPORTS}.attempts")
    assert (done.returncode, done.stdout.split()) == (0, here), done.stderr[-2000:]
    return {name: (folder / f"{name}.attempts").read_text() for name in (IMPORTS, *here)}


@pytest.mark.parametrize("name", [IMPORTS, *NAMES])
def test_a_runtime_needs_and_tries_no_network(name: str, attempts: Mapping[str, str]) -> None:
    if name not in attempts:
        pytest.skip(f"{name}: {RUNTIMES[name].missing() or RUNTIMES[name].obstacle()}")
    assert attempts[name] == ""
