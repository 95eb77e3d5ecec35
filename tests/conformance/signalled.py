"""Sessions that are opened and closed in every order, with signals in between.

`python -m tests.conformance.signalled RUNTIME=FILE...`: each with itself, or if there are several each with each other
(no file where a runtime opens modules). A process of its own, since what fails here ends it; it prints each step before
it takes it, and `done`.
"""

import os
import signal
import subprocess
import sys
from collections import Counter
from itertools import combinations, permutations
from pathlib import Path
from threading import Thread
from time import monotonic, sleep

import numpy as np

from nasdeploy.runtimes import RUNTIMES
from nasdeploy.runtimes.runtime import LocalTarget, Session

SIGNALS = (signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD)
ORDERS = sorted(set(permutations((0, 0, 1, 1))))
"""Of two sessions: the first time that one is named it is opened, the second time closed."""

handled: Counter[int] = Counter()


def interrupt() -> None:
    """As Ctrl-C, a scheduler and a data loader's worker that ends do."""
    before = handled.copy()
    for number in (signal.SIGINT, signal.SIGUSR1):
        os.kill(os.getpid(), number)
    subprocess.run(["true"], check=True)
    # Another thread may take a signal, a moment later.
    ends = monotonic() + 10
    while not all(handled[number] > before[number] for number in SIGNALS):
        assert monotonic() < ends, handled - before
        sleep(0.001)


def opened(name: str, file: str) -> Session:
    if file:
        return RUNTIMES[name].open(Path(file), LocalTarget("here", name))
    from tests.conformance.runtime_models import small

    return RUNTIMES[name].open(small("module"), LocalTarget("here", name))


def called(session: Session) -> None:
    session.call()
    session.run({name: np.ones(shape, np.float32) for name, shape in session.inputs.items()})


def in_every_order(pair: tuple[tuple[str, str], tuple[str, str]]) -> None:
    for order in ORDERS:
        sessions: dict[int, Session] = {}
        for number in order:
            doing = "close" if number in sessions else "open"
            print(f"{doing} {pair[number][0]}, number {number} in the order {order} with {pair}", flush=True)
            if number in sessions:
                sessions.pop(number).close()
            else:
                sessions[number] = opened(*pair[number])
            for session in sessions.values():
                called(session)
            interrupt()


def in_a_thread(name: str, file: str) -> None:
    """That ends before its session does."""
    sessions: list[Session] = []
    thread = Thread(target=lambda: sessions.append(opened(name, file)))
    print(f"open {name} in a thread", flush=True)
    thread.start()
    thread.join()
    called(sessions[0])
    interrupt()


if __name__ == "__main__":
    for each in SIGNALS:
        signal.signal(each, lambda number, frame: handled.update([number]))
    runtimes = [(name, file) for name, _, file in (argument.partition("=") for argument in sys.argv[1:])]
    in_a_thread(*runtimes[0])
    for pair in combinations(runtimes, 2) if len(runtimes) > 1 else [(runtimes[0], runtimes[0])]:
        in_every_order(pair)
    print("done")
