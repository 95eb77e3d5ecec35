"""One message where several processes of a run fail. Torch-free."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import sleep

from nasdeploy.core.errors import NasdeployError

REPORTING_S = 2.0
"""How long the others outlive the process that reports an error, in seconds: a launcher that sees one of its processes
end stops the rest at once."""


class FailedElsewhere(NasdeployError):
    """The end of a process because of an error that another process of the run reports."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("another process of this run failed; see its message")
        self.exit_code = exit_code


@contextmanager
def reported_once(reports: Callable[[], bool]) -> Iterator[None]:
    """Makes an error `FailedElsewhere`, a little later, unless `reports` says that it is this process's to report."""
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
    """What a process ends with because of an error."""
    return error.exit_code if isinstance(error, NasdeployError) else NasdeployError.exit_code


def processes() -> int:
    """How many processes `torchrun` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def first_of_host() -> bool:
    """Whether this process reports what fails before the processes know each other: one on each host."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def first_of_run() -> bool:
    """Whether this process is the one that talks to the user while all goes well."""
    return os.environ.get("RANK", "0") == "0"
