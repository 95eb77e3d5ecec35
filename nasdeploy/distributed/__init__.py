"""The processes of a run that `torchrun` started: how many there are, and one message where several fail. Torch-free.

In training all processes share each batch (`ranks`). In a search each pulls one job at a time from the queue of the
first one (`coordinator`, `worker`): nothing is divided beforehand, so a slow process holds the rest up for one job at
most, and one that dies costs the job that it was at, which whoever is left gets. They meet in a store of
`torch.distributed` and need no collective operation, which would wait for the dead; the first process alone decides
what is scored, and writes.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import sleep

from nasdeploy.core.errors import NasdeployError

REPORTING_S = 2.0
"""Seconds for which the others outlive the process that reports an error: a launcher that sees one of its processes
end stops the rest at once."""


class FailedElsewhere(NasdeployError):
    """The end of a process because of an error that another process of the run reports."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("another process of this run failed; see its message")
        self.exit_code = exit_code


@contextmanager
def reported_once(reports: Callable[[], bool]) -> Iterator[None]:
    """Turn an error into `FailedElsewhere`, a little later, unless `reports` says that this process reports it."""
    try:
        yield
    except FailedElsewhere:
        sleep(REPORTING_S)
        raise
    except (NasdeployError, OSError) as error:
        if reports():
            raise
        sleep(REPORTING_S)
        raise FailedElsewhere(exit_code_of(error)) from None


def exit_code_of(error: Exception) -> int:
    """Return the exit code that a process ends with because of an error."""
    return error.exit_code if isinstance(error, NasdeployError) else NasdeployError.exit_code


def processes() -> int:
    """Return how many processes `torchrun` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def first_of_host() -> bool:
    """Return whether this process reports what fails before the processes know each other: one on each host."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def first_of_run() -> bool:
    """Return whether this process is the one that talks to the user while all goes well."""
    return os.environ.get("RANK", "0") == "0"
