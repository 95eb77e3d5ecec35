"""`nasdeploy search` that logs every evaluation, of whichever process: `begin DIGEST SECONDS` and `end DIGEST SECONDS`.

    python logged_search.py LOG ARGUMENT...

A line is appended at once, so that the log tells what was begun when the process was killed.
"""

import os
import sys
from time import monotonic

from nasdeploy.cli.main import main
from nasdeploy.core.arch import Arch
from nasdeploy.core.score import Score
from nasdeploy.supernet.evaluate import Evaluator

PLAIN = Evaluator.__call__


def logged(evaluator: Evaluator, arch: Arch, first: int = 0, end: int | None = None) -> Score:
    """An evaluation between two lines in the log."""
    append("begin", arch)
    score = PLAIN(evaluator, arch, first, end)
    append("end", arch)
    return score


def append(word: str, arch: Arch) -> None:
    """Write a line of the log in one go."""
    file = os.open(LOG, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{word} {arch.digest} {monotonic():.6f}\n".encode())
    os.close(file)


def search() -> None:
    """Do what the words say."""
    global LOG
    LOG = sys.argv.pop(1)
    Evaluator.__call__ = logged  # type: ignore[method-assign]
    main()


if __name__ == "__main__":
    search()
