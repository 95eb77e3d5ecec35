"""Measuring: open sessions in turn, in short visits, so that a slow minute is shared by all of them.

NumPy and the standard library only: this also runs on a small board.
"""

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter_ns, sleep
from typing import Generic, Protocol, TypeVar

import numpy as np

from nasdeploy.core.errors import UserError
from nasdeploy.latency.machine import SensorReading, read_sensors
from nasdeploy.latency.protocol import (
    UNDISTURBED,
    MeasurementProtocol,
    Noise,
    Rounds,
    SustainedCalls,
    Timing,
    utc_now,
)

M = TypeVar("M")

REFERENCE_EVERY = 8
"""The number of visits between two to the reference graph, which so is measured all over a round."""
_CLOCK_TRIALS = 5

Clock = Callable[[], int]
"""Tells nanoseconds since some start."""


@dataclass(frozen=True)
class Instruments:
    """What a measurement reads and waits with; tests have their own."""

    clock: Clock = perf_counter_ns
    pause: Callable[[float], None] = sleep
    sense: Callable[[], SensorReading] = read_sensors


_OF_THIS_MACHINE = Instruments()


class Timed(Protocol):
    """What is measured: the part of a runtime's session that matters here."""

    def call(self) -> None:
        """Do one inference."""

    def close(self) -> None:
        """Give back the memory."""


Opener = Callable[[], Timed]
"""Opens a session."""


@dataclass(frozen=True)
class Group(Generic[M]):
    """What is measured together: models by key, and the reference graph that tells how fast the machine is meanwhile.

    The reference graph gets no timing of its own; the models' timings say how long it took (`Timing.reference`).
    """

    models: Mapping[str, M]
    reference: M | None = None


def in_groups(models: Mapping[str, M], size: int, reference: M | None = None) -> Iterator[Group[M]]:
    """Divide `models`, in their order, into groups of `size` sessions, each with the reference if there is one.

    A group of one session has no room for a reference.
    """
    reference = reference if size > 1 else None
    at_once = size if reference is None else size - 1
    items = list(models.items())
    for first in range(0, len(items), at_once):
        yield Group(dict(items[first : first + at_once]), reference)


def measure(
    openers: Mapping[str, Opener],
    rounds: Rounds,
    protocol: MeasurementProtocol,
    *,
    reference: Opener | None = None,
    on_visit: Callable[[], None] = lambda: None,
    instruments: Instruments = _OF_THIS_MACHINE,
) -> Iterator[dict[str, Timing]]:
    """Yield timings by key, group after group; a group's sessions are open only while it is measured.

    `on_visit` is called after each visit of `rounds`, not after those for a group's shortest time or to the reference.
    Raises `UserError` if the clock stands still or runs backwards again and again.
    """
    for group in in_groups(openers, rounds.group, reference):
        yield _Measurement(rounds, protocol, instruments).of(group, on_visit)


@dataclass
class _Session:
    """An open session, the number of calls in a run of it, and the mean seconds of a call in each run."""

    timed: Timed
    idle_s: float
    """Seconds of doing nothing before each run."""
    calls: int = 1
    runs: list[float] = field(default_factory=list)

    @property
    def calls_in_visits(self) -> int:
        """The calls of a run in a visit: after a pause it is the first one that counts."""
        return 1 if self.idle_s else self.calls

    @property
    def seconds(self) -> float:
        """Seconds that runs and their pauses took; by the clock of the machine it might be for ever, if that jumps."""
        return self.calls_in_visits * sum(self.runs) + self.idle_s * len(self.runs)


@dataclass(frozen=True)
class _Measurement:
    """How a group is measured."""

    rounds: Rounds
    protocol: MeasurementProtocol
    instruments: Instruments

    def of(self, group: Group[Opener], on_visit: Callable[[], None]) -> dict[str, Timing]:
        """Open the group's sessions, measure them, and close them."""
        opened: list[_Session] = []
        try:
            # The reference tells how fast the machine is, for blocks and networks alike: without pauses.
            reference = None if group.reference is None else self._opened(group.reference, 0.0, opened)
            sessions = {key: self._opened(opener, self.rounds.idle_s, opened) for key, opener in group.models.items()}
            readings = self._visit_all(sessions, reference, on_visit)
            usual = None if reference is None else undisturbed(reference.runs)
            noise = _noise_of(readings)
            timings = {key: summary(each.runs, self.protocol, usual, noise) for key, each in sessions.items()}
            return {key: self._with_throughput(sessions[key], timing) for key, timing in timings.items()}
        finally:
            for session in opened:
                session.timed.close()

    def _opened(self, opener: Opener, idle_s: float, opened: list[_Session]) -> _Session:
        session = _Session(opener(), idle_s)
        opened.append(session)
        for _ in range(self.protocol.warmup):
            mean = self._run(session.timed, session.calls)
            session.calls = max(1, round(self.protocol.shortest_run_s / mean))
        return session

    def _visit_all(
        self, sessions: Mapping[str, _Session], reference: _Session | None, on_visit: Callable[[], None]
    ) -> list[SensorReading]:
        """Visit all sessions as often as the rounds and the group's shortest time want it; return the sensors then."""
        together = [*sessions.values(), *([] if reference is None else [reference])]
        readings = [self.instruments.sense()]
        with _no_garbage_collection():
            for _ in range(self.rounds.visits):
                self._visit_each(sessions, reference, on_visit)
                readings.append(self.instruments.sense())
            while sum(session.seconds for session in together) < self.protocol.shortest_group_s:
                self._visit_each(sessions, reference, lambda: None)
                readings.append(self.instruments.sense())
        return readings

    def _visit_each(
        self, sessions: Mapping[str, _Session], reference: _Session | None, on_visit: Callable[[], None]
    ) -> None:
        if reference is not None:
            self._visit(reference)
        for number, session in enumerate(sessions.values(), start=1):
            if reference is not None and number % REFERENCE_EVERY == 0:
                self._visit(reference)
            self._visit(session)
            on_visit()

    def _visit(self, session: _Session) -> None:
        # After a pause caches are cold in any case.
        discarded = 0 if session.idle_s else self.protocol.discarded
        for number in range(discarded + self.protocol.kept):
            if session.idle_s:
                self.instruments.pause(session.idle_s)
            mean = self._run(session.timed, session.calls_in_visits)
            if number >= discarded:
                session.runs.append(mean)

    def _with_throughput(self, session: _Session, timing: Timing) -> Timing:
        """Add the calls that are done in the protocol's time, in runs, so that the clock is read seldom."""
        if not self.protocol.sustained_s:
            return timing
        done, taken, call = 0, 0, session.timed.call
        start = self.instruments.clock()
        while taken < self.protocol.sustained_s * 1e9:
            for _ in range(session.calls):
                call()
            done, taken = done + session.calls, self.instruments.clock() - start
        return replace(timing, throughput=SustainedCalls(done, taken * 1e-9))

    def _run(self, timed: Timed, calls: int) -> float:
        """Return the mean seconds of that many calls, made again where the clock says that they took none."""
        for _ in range(_CLOCK_TRIALS):
            took = self._run_once(timed, calls)
            if took > 0:
                return took * 1e-9 / calls
        raise UserError(
            "the clock of the machine that measures stands still or runs backwards; correct it and measure again"
        )

    def _run_once(self, timed: Timed, calls: int) -> int:
        call, clock = timed.call, self.instruments.clock
        start = clock()
        for _ in range(calls):
            call()
        return clock() - start


def summary(runs: Sequence[float], protocol: MeasurementProtocol, reference: float | None, noise: Noise = "") -> Timing:
    """Return the timing of runs, in seconds, that end now; where nothing else disturbed them they may vary too much.

    `reference` are the undisturbed seconds of the reference graph meanwhile, if there was one.
    """
    # Sorted, because rounding may put percentiles of nearly equal runs out of order.
    p10, median, p90, p95 = np.sort(np.percentile(runs, [UNDISTURBED, 50, 90, 95])).tolist()
    if not noise and p90 > protocol.noisy_above * median:
        noise = "spread"
    return Timing(median, p10, p90, p95, len(runs), utc_now(), noise, reference)


def undisturbed(runs: Sequence[float]) -> float:
    """Return the seconds of a run that nothing disturbs (`Timing.undisturbed`)."""
    return float(np.percentile(runs, UNDISTURBED))


def _noise_of(readings: list[SensorReading]) -> Noise:
    """Say what the sensors tell about the time between the first and the last reading."""
    if readings[-1].stops > readings[0].stops:
        return "quota"
    throttled = readings[-1].throttles > readings[0].throttles or any(reading.capped for reading in readings)
    return "throttling" if throttled else ""


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
