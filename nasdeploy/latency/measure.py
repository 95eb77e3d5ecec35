"""The measuring protocol: many sessions in turn, in short visits, so that a slow minute is shared by all of them.

NumPy and the standard library only: this also runs on a small board.
"""

import gc
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from math import ceil, isfinite
from time import perf_counter_ns, sleep

import numpy as np

Clock = Callable[[], int]
"""Nanoseconds since some start."""


@dataclass(frozen=True)
class Rounds:
    """How many sessions are open together, and how often each of them is visited."""

    group: int
    visits: int

    def __post_init__(self) -> None:
        if min(self.group, self.visits) < 1:
            raise ValueError(f"a measurement needs a group and a visit at least; found {self}")


@dataclass(frozen=True)
class Protocol:
    """How to measure. A visit is a few runs of one session; the open sessions are visited in turn.

    Raises `ValueError` for settings that nothing can be measured with.
    """

    blocks: Rounds = Rounds(group=50, visits=5)
    networks: Rounds = Rounds(group=16, visits=10)
    """Smaller groups, because an open network takes up to 200 MB."""
    warmup: int = 3
    """Runs thrown away before the first visit."""
    discarded: int = 1
    """Runs thrown away at the start of a visit: the session before has filled the caches."""
    kept: int = 5
    """Runs of a visit that count."""
    shortest_run_s: float = 1e-3
    """A run is as many calls as last this long together; its time is their mean."""
    noisy_above: float = 1.2
    """p90/p50 above which a result is measured again, and flagged if that does not help."""
    retries: int = 3
    wait_s: float = 1.0
    """Pause before measuring again."""
    calibration_networks: int = 24
    """Whole networks that the table is calibrated on."""
    held_out_networks: int = 40
    """Whole networks that tell the table's error."""

    def __post_init__(self) -> None:
        if min(self.warmup, self.kept, self.calibration_networks) < 1:
            raise ValueError(f"a protocol needs runs to warm up, runs to keep, and networks; found {self}")
        if self.shortest_run_s <= 0 or self.noisy_above <= 1:
            raise ValueError(f"a protocol has shortest_run_s > 0 and noisy_above > 1; found {self}")
        if min(self.discarded, self.retries, self.wait_s, self.held_out_networks) < 0:
            raise ValueError(f"nothing in a protocol is negative; found {self}")


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median, 10th and 90th percentile of `n` runs; `noisy` if they vary too much to be trusted.

    Raises `ValueError` for numbers that no measurement yields.
    """

    median: float
    p10: float
    p90: float
    n: int
    noisy: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.p10 <= self.median <= self.p90 and isfinite(self.p90) and self.n >= 1):
            raise ValueError(f"a timing has 0 < p10 <= median <= p90 and n >= 1; found {self}")

    @property
    def spread(self) -> float:
        """p90/p50."""
        return self.p90 / self.median


class Timed(typing.Protocol):
    """What is measured: the part of a runtime's session that matters here."""

    def call(self) -> None:
        """One inference."""

    def close(self) -> None:
        """Give back the memory."""


Opener = Callable[[], Timed]


def measure(
    openers: Mapping[str, Opener],
    rounds: Rounds,
    protocol: Protocol,
    *,
    on_visit: Callable[[], None] = lambda: None,
    clock: Clock = perf_counter_ns,
    pause: Callable[[float], None] = sleep,
) -> Iterator[dict[str, Timing]]:
    """Timings by key, group after group; a group's sessions are open only while it is measured.

    `on_visit` is called after each visit but those to noisy sessions again.
    """
    remaining = iter(openers.items())
    while group := dict(islice(remaining, rounds.group)):
        yield _Group(group, rounds.visits, protocol, clock).measure(on_visit, pause)


class _Group:
    """Sessions that are open together."""

    def __init__(self, openers: Mapping[str, Opener], visits: int, protocol: Protocol, clock: Clock) -> None:
        self._openers, self._visits, self._protocol, self._clock = openers, visits, protocol, clock
        self._sessions: dict[str, Timed] = {}
        self._calls: dict[str, int] = {}

    def measure(self, on_visit: Callable[[], None], pause: Callable[[float], None]) -> dict[str, Timing]:
        try:
            for key, opener in self._openers.items():
                self._sessions[key] = opener()
                self._calls[key] = self._warm_up(self._sessions[key])
            timings = self._visit_all(self._sessions, on_visit)
            return self._retry_noisy(timings, pause)
        finally:
            for session in self._sessions.values():
                session.close()

    def _warm_up(self, session: Timed) -> int:
        """Calls of a run."""
        calls = 1
        for _ in range(self._protocol.warmup):
            calls = ceil(self._protocol.shortest_run_s / max(self._run(session, calls), 1e-9))
        return calls

    def _retry_noisy(self, timings: dict[str, Timing], pause: Callable[[float], None]) -> dict[str, Timing]:
        for _ in range(self._protocol.retries):
            noisy = [key for key, timing in timings.items() if timing.noisy]
            if not noisy:
                break
            pause(self._protocol.wait_s)
            for key, timing in self._visit_all(noisy, lambda: None).items():
                timings[key] = min(timings[key], timing, key=lambda either: either.spread)
        return timings

    def _visit_all(self, keys: Iterable[str], on_visit: Callable[[], None]) -> dict[str, Timing]:
        runs: dict[str, list[float]] = {key: [] for key in keys}
        with _no_garbage_collection():
            for _ in range(self._visits):
                for key, times in runs.items():
                    times.extend(self._visit(self._sessions[key], self._calls[key]))
                    on_visit()
        return {key: self._summary(times) for key, times in runs.items()}

    def _visit(self, session: Timed, calls: int) -> list[float]:
        runs = [self._run(session, calls) for _ in range(self._protocol.discarded + self._protocol.kept)]
        return runs[self._protocol.discarded :]

    def _run(self, session: Timed, calls: int) -> float:
        """Mean seconds of that many calls."""
        call = session.call
        start = self._clock()
        for _ in range(calls):
            call()
        return (self._clock() - start) * 1e-9 / calls

    def _summary(self, runs: list[float]) -> Timing:
        # Sorted, because rounding may put percentiles of nearly equal runs out of order.
        p10, median, p90 = np.sort(np.percentile(runs, [10, 50, 90])).tolist()
        return Timing(median, p10, p90, len(runs), noisy=p90 > self._protocol.noisy_above * median)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
