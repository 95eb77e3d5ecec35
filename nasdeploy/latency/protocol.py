"""The measuring protocol: many sessions in turn, in short visits, so that a slow minute is shared by all of them.

NumPy and the standard library only: this also runs on a small board.
"""

import gc
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from math import isfinite
from time import gmtime, perf_counter_ns, sleep, strftime

import numpy as np

from nasdeploy.core.errors import UserError
from nasdeploy.latency.sensors import SensorReading, read_sensors
from nasdeploy.latency.throughput import SustainedCalls

M = typing.TypeVar("M")

Clock = Callable[[], int]
"""Nanoseconds since some start."""

Noise = typing.Literal["", "spread", "drift", "throttling", "frequency", "quota"]
"""Why a timing is not to be trusted: its runs vary, the machine's speed differed from that in the rest of the
measurement, it was throttled, its frequency changed, or a quota of processors' time was used up."""


@dataclass(frozen=True)
class Rounds:
    """How many sessions are open together, and how often each of them is visited."""

    group: int
    visits: int
    idle_s: float = 0.0
    """Seconds of doing nothing before each call that is timed, as an application with a camera has them: caches and
    clocks are then what it finds. 0: calls are timed back to back."""

    def __post_init__(self) -> None:
        if min(self.group, self.visits) < 1 or not 0 <= self.idle_s < float("inf"):
            raise ValueError(f"a measurement needs a group and a visit at least, no pause below 0; found {self}")


@dataclass(frozen=True)
class MeasurementProtocol:
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
    """A run is as many calls as last about so long together, at least one; its time is their mean."""
    shortest_group_s: float = 2.0
    """A group is visited until runs that count have taken so long together, beyond its number of visits if need be:
    what shares a machine slows it down for up to a second, and all visits to a few fast models with it."""
    noisy_above: float = 1.2
    """p90/p50 above which a result is measured again, and flagged if that does not help."""
    drift_above: float = 1.05
    """The same for how much faster or slower than usual the reference graph was meanwhile."""
    sustained_s: float = 0.0
    """Seconds of calls back to back by which throughput is measured, besides; 0: it is not."""
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
        if self.shortest_run_s <= 0 or min(self.noisy_above, self.drift_above) <= 1:
            raise ValueError(f"a protocol has shortest_run_s > 0, noisy_above and drift_above > 1; found {self}")
        others = (self.retries, self.wait_s, self.shortest_group_s, self.sustained_s, self.held_out_networks)
        if min(self.discarded, *others) < 0:
            raise ValueError(f"nothing in a protocol is negative; found {self}")

    def with_idle(self, idle_ms: float) -> "MeasurementProtocol":
        """The same for a device with gaps of so many milliseconds: whole networks are measured after them.

        Blocks are not, since their calls are parts of one; how networks differ from their sum, calibration finds out.
        """
        return replace(self, networks=replace(self.networks, idle_s=idle_ms / 1e3))


BETWEEN_PROCESSES = 0.03
"""Two measurements of one thing in two processes differ by so much on a quiet machine, or more."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median and percentiles of `n` runs, and when they were made (UTC, ISO 8601).

    Raises `ValueError` for numbers that no measurement yields.
    """

    median: float
    p10: float
    p90: float
    p95: float
    n: int
    at: str
    noise: Noise = ""
    reference: float | None = None
    """Undisturbed seconds of the reference graph meanwhile, if there was one."""
    throughput: SustainedCalls | None = None
    """None where it was not measured."""
    processes: tuple[float, ...] = ()
    """Medians of the processes that it was measured in, ascending; each has its own place in memory, and its own speed.
    Empty where it was only one. The percentiles are then the medians of the processes'."""

    def __post_init__(self) -> None:
        if not (0 < self.p10 <= self.median <= self.p90 <= self.p95 and isfinite(self.p95) and self.n >= 1):
            raise ValueError(f"a timing has 0 < p10 <= median <= p90 <= p95 and n >= 1; found {self}")
        if self.reference is not None and not 0 < self.reference < float("inf"):
            raise ValueError(f"a timing's reference takes time; found {self}")
        if list(self.processes) != sorted(self.processes) or min(self.processes, default=1.0) <= 0:
            raise ValueError(f"a timing's processes have ascending medians; found {self}")
        if datetime.fromisoformat(self.at).tzinfo is None:
            raise ValueError(f"a timing's time has a time zone; found {self}")

    @property
    def noisy(self) -> bool:
        """Whether it is not to be trusted."""
        return self.noise != ""

    @property
    def undisturbed(self) -> float:
        """Seconds of a call that nothing disturbs: the 10th percentile.

        Where a shared machine's speed changes within seconds, medians of two measurements differ five times as much.
        """
        return self.p10

    @property
    def spread(self) -> float:
        """p90/p50."""
        return self.p90 / self.median

    @property
    def process_spread(self) -> float | None:
        """Largest by smallest median of its processes; None where it was one."""
        return self.processes[-1] / self.processes[0] if self.processes else None

    @property
    def band(self) -> tuple[float, float]:
        """Seconds between which medians of other processes are to be expected."""
        if not self.processes:
            return self.median * (1 - BETWEEN_PROCESSES), self.median * (1 + BETWEEN_PROCESSES)
        middle = float(np.median(self.processes))
        return self.median * self.processes[0] / middle, self.median * self.processes[-1] / middle

    def ties(self, other: "Timing") -> bool:
        """Whether the two cannot be told apart, because another process may well find their medians the other way."""
        return self.band[0] <= other.band[1] and other.band[0] <= self.band[1]


def utc_now() -> str:
    """The time in the form of `Timing.at`."""
    return strftime("%Y-%m-%dT%H:%M:%S+00:00", gmtime())


class Timed(typing.Protocol):
    """What is measured: the part of a runtime's session that matters here."""

    def call(self) -> None:
        """One inference."""

    def close(self) -> None:
        """Give back the memory."""


Opener = Callable[[], Timed]

REFERENCE = "reference graph"
"""Keys that begin with it are not wanted for themselves: other timings of their group are given beside them."""


def measure(
    openers: Mapping[str, Opener],
    rounds: Rounds,
    protocol: MeasurementProtocol,
    *,
    on_visit: Callable[[], None] = lambda: None,
    clock: Clock = perf_counter_ns,
    pause: Callable[[float], None] = sleep,
    sense: Callable[[], SensorReading] = read_sensors,
) -> Iterator[dict[str, Timing]]:
    """Timings by key, group after group; a group's sessions are open only while it is measured.

    `on_visit` is called after each visit of `rounds`, not after those to noisy sessions again or for a group's shortest
    time. Raises `UserError` if the clock stands still or runs backwards again and again.
    """
    for group in in_groups(openers, rounds.group):
        yield _Group(group, rounds, protocol, clock, pause, sense).measure(on_visit)


def in_groups(models: Mapping[str, M], size: int) -> Iterator[dict[str, M]]:
    """`models` in their order, `size` at a time."""
    remaining = iter(models.items())
    while group := dict(islice(remaining, size)):
        yield group


class _Group:
    """Sessions that are open together."""

    def __init__(
        self,
        openers: Mapping[str, Opener],
        rounds: Rounds,
        protocol: MeasurementProtocol,
        clock: Clock,
        pause: Callable[[float], None],
        sense: Callable[[], SensorReading],
    ) -> None:
        self._openers, self._rounds, self._protocol = openers, rounds, protocol
        self._clock, self._pause, self._sense = clock, pause, sense
        self._sessions: dict[str, Timed] = {}
        self._calls: dict[str, int] = {}

    def measure(self, on_visit: Callable[[], None]) -> dict[str, Timing]:
        try:
            for key, opener in self._openers.items():
                self._sessions[key] = opener()
                self._calls[key] = self._warm_up(self._sessions[key])
            timings = self._visit_all(self._sessions, on_visit)
            timings = self._retry_noisy(timings)
            return {key: self._with_throughput(key, timing) for key, timing in timings.items()}
        finally:
            for session in self._sessions.values():
                session.close()

    def _warm_up(self, session: Timed) -> int:
        """Calls of a run."""
        calls = 1
        for _ in range(self._protocol.warmup):
            calls = max(1, round(self._protocol.shortest_run_s / self._run(session, calls)))
        return calls

    def _retry_noisy(self, timings: dict[str, Timing]) -> dict[str, Timing]:
        for _ in range(self._protocol.retries):
            noisy = [key for key, timing in timings.items() if timing.noisy and not _is_reference(key)]
            if not noisy:
                break
            self._pause(self._protocol.wait_s)
            found = self._visit_all(noisy, lambda: None)
            for key in noisy:
                timings[key] = min(timings[key], found[key], key=lambda either: (either.noisy, either.spread))
        return timings

    def _visit_all(self, keys: Iterable[str], on_visit: Callable[[], None]) -> dict[str, Timing]:
        """Timings of the sessions with these keys, and of the group's reference."""
        visited = dict.fromkeys([*filter(_is_reference, self._sessions), *keys])
        runs: dict[str, list[float]] = {key: [] for key in visited}
        readings = [self._sense()]
        with _no_garbage_collection():
            for _ in range(self._rounds.visits):
                self._visit_each(runs, on_visit)
                readings.append(self._sense())
            while self._seconds(runs) < self._protocol.shortest_group_s:
                self._visit_each(runs, lambda: None)
                readings.append(self._sense())
        references = [time for key, times in runs.items() if _is_reference(key) for time in times]
        reference = float(np.percentile(references, _UNDISTURBED)) if references else None
        noise = _noise_of(readings)
        return {key: self._summary(times, noise, reference) for key, times in runs.items()}

    def _seconds(self, runs: Mapping[str, list[float]]) -> float:
        """That runs and their pauses took; by the clock of the machine it might be for ever, if that jumps."""
        return sum(self._calls_of(key) * sum(times) + self._idle_of(key) * len(times) for key, times in runs.items())

    def _idle_of(self, key: str) -> float:
        """Seconds before a run. The reference tells how fast the machine is, for blocks and networks alike: without."""
        return 0.0 if _is_reference(key) else self._rounds.idle_s

    def _calls_of(self, key: str) -> int:
        """Calls of a run: after a pause it is the first one that counts."""
        return 1 if self._idle_of(key) else self._calls[key]

    def _visit_each(self, runs: Mapping[str, list[float]], on_visit: Callable[[], None]) -> None:
        for place, (key, times) in enumerate(runs.items()):
            if place and place % REFERENCE_EVERY == 0:
                self._visit_references(runs)
            times.extend(self._visit(key))
            on_visit()

    def _visit_references(self, runs: Mapping[str, list[float]]) -> None:
        for key in filter(_is_reference, runs):
            runs[key].extend(self._visit(key))

    def _visit(self, key: str) -> list[float]:
        session, calls, idle = self._sessions[key], self._calls_of(key), self._idle_of(key)
        # After a pause caches are cold in any case.
        discarded = 0 if idle else self._protocol.discarded
        runs = []
        for _ in range(discarded + self._protocol.kept):
            if idle:
                self._pause(idle)
            runs.append(self._run(session, calls))
        return runs[discarded:]

    def _with_throughput(self, key: str, timing: Timing) -> Timing:
        """A timing with the calls that are done in the protocol's time, in runs, so that the clock is read seldom."""
        if not self._protocol.sustained_s or _is_reference(key):
            return timing
        done, taken, call = 0, 0, self._sessions[key].call
        start = self._clock()
        while taken < self._protocol.sustained_s * 1e9:
            for _ in range(self._calls[key]):
                call()
            done, taken = done + self._calls[key], self._clock() - start
        return replace(timing, throughput=SustainedCalls(done, taken * 1e-9))

    def _run(self, session: Timed, calls: int) -> float:
        """Mean seconds of that many calls; made again where the clock says that they took none."""
        for _ in range(_CLOCK_TRIALS):
            took = self._run_once(session, calls)
            if took > 0:
                return took * 1e-9 / calls
        raise UserError(
            "the clock of the machine that measures stands still or runs backwards; correct it and measure again"
        )

    def _run_once(self, session: Timed, calls: int) -> int:
        call = session.call
        start = self._clock()
        for _ in range(calls):
            call()
        return self._clock() - start

    def _summary(self, runs: list[float], noise: Noise, reference: float | None) -> Timing:
        # Sorted, because rounding may put percentiles of nearly equal runs out of order.
        p10, median, p90, p95 = np.sort(np.percentile(runs, [_UNDISTURBED, 50, 90, 95])).tolist()
        if not noise and p90 > self._protocol.noisy_above * median:
            noise = "spread"
        return Timing(median, p10, p90, p95, len(runs), utc_now(), noise, reference)


def _is_reference(key: str) -> bool:
    return key.startswith(REFERENCE)


REFERENCE_EVERY = 8
"""Sessions between two visits to the reference, which so is measured all over a round."""
_CLOCK_TRIALS = 5
_UNDISTURBED = 10
"""Percentile of `Timing.undisturbed`."""
_STEADY = 0.9
"""Frequencies of the same core at work are within this ratio of each other."""


def _noise_of(readings: list[SensorReading]) -> Noise:
    """What the sensors say about the time between the first and the last reading, the latter ones under load."""
    frequencies = [reading.kilohertz for reading in readings[1:]]
    if readings[-1].stops > readings[0].stops:
        return "quota"
    if readings[-1].throttles > readings[0].throttles or any(reading.capped for reading in readings):
        return "throttling"
    return "frequency" if min(frequencies) < _STEADY * max(frequencies) else ""


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
