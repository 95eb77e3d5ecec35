"""Tests on machines that are not quiet: what failed because the machine has become slower is tried again."""

import subprocess
from collections.abc import Callable

_ATTEMPTS = 3
_NOTHING_FITS = 3


def despite_noise(
    command: Callable[[], subprocess.CompletedProcess[str]], profile_anew: Callable[[], object]
) -> subprocess.CompletedProcess[str]:
    """What `command` gave, again with a new latency table where no measured network met a budget that the table had.

    On shared machines speed changes by a third from one minute to the next, and then the budget cannot be met.
    """
    for _ in range(_ATTEMPTS - 1):
        done = command()
        if done.returncode != _NOTHING_FITS or "measured" not in done.stderr:
            return done
        profile_anew()
    return command()
