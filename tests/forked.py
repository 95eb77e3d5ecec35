"""Processes of the tests that begin with everything imported, since importing it takes most of a short one's time.

A server that has imported all and done nothing else forks them: they can be killed, resumed and joined like those that
a user starts. How `nasdeploy` itself starts is tested by processes of its own.
"""

import atexit
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import get_context, set_start_method
from pathlib import Path

from nasdeploy.cli.main import main

_PRELOADED = ["nasdeploy.workflows.run", "torch._dynamo", "sklearn.datasets", "tests.forked"]
_SERVER = get_context("forkserver")
_SERVER.set_forkserver_preload(_PRELOADED)
_started: "list[ForkedProcess]" = []


@atexit.register
def _end_all() -> None:
    """Kill what a test that failed has left behind, for which Python would wait."""
    for process in _started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


class ForkedProcess:
    """A process that calls a function with words, in a session of its own; it has those of `Popen` that are used."""

    def __init__(
        self,
        function: Callable[[], object],
        words: Sequence[str],
        *,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
        said: Path | None = None,
    ) -> None:
        """Start it; stderr is appended to the file `said`, stdout is thrown away."""
        self.args = list(words)
        directory = str(Path.cwd() if cwd is None else cwd)
        given = (function, self.args, directory, dict(environment or {}), os.devnull if said is None else str(said))
        self._process = _SERVER.Process(target=_call, args=given)
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid
        _started.append(self)

    @property
    def returncode(self) -> int | None:
        """The exit status, the negative signal that ended it, or None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return `returncode`."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return `returncode` when it has ended; raises `TimeoutExpired`."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self.returncode


def nasdeploy(*arguments: str, **given: object) -> ForkedProcess:
    """Start `nasdeploy` with these arguments."""
    return ForkedProcess(main, ["nasdeploy", *arguments], **given)  # type: ignore[arg-type]


def of_two() -> list[dict[str, str]]:
    """Return the variables of two processes as torchrun sets them, which stops neither for the other here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [{**shared, "RANK": rank, "LOCAL_RANK": rank} for rank in ("0", "1")]


def _call(
    function: Callable[[], object], words: list[str], directory: str, environment: dict[str, str], said: str
) -> None:
    import torch

    os.setsid()
    os.chdir(directory)
    os.environ.update(environment)
    for descriptor, path in ((1, os.devnull), (2, said)):
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(file, descriptor)
        os.close(file)
    # As where torch is imported anew with one thread for OpenMP, and processes of its own are started by default.
    torch.set_num_threads(1)
    set_start_method(None, force=True)
    sys.argv = words
    function()
