"""What a measurement is: how it is made (`MeasurementProtocol`), what it yields (`Timing`), and which of two is better.

There is one order of better (`quality`): campaigns that measure again, and merged tables, go by it. How fast the
machine was is told by a reference graph, which is measured again in every group of sessions. A timing made while it was
slower or faster than usual is flagged, also where its runs look quiet, and corrected (`corrected`).

The standard library only: small boards are sent this file, and who reads a latency table needs nothing that measures.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from math import inf, isfinite, log
from statistics import median
from time import gmtime, strftime
from typing import Literal

Noise = Literal["", "spread", "drift", "throttling", "frequency", "quota"]
"""Why a timing is not to be trusted: its runs vary, the machine's speed differed from that in the rest of the
measurement, it was throttled, or a quota of processors' time was used up. `frequency` (the processor's frequency
changed) stands in older tables only: what it told, runs that vary and the reference graph tell as well."""


@dataclass(frozen=True)
class Rounds:
    """How many sessions are open together, and how often each of them is visited."""

    group: int
    """The number of sessions that are open together."""
    visits: int
    """How often each of them is visited."""
    idle_s: float = 0.0
    """Seconds of doing nothing before each call that is timed, as an application with a camera has them: caches and
    clocks are then what it finds. 0: calls are timed back to back."""
    group_with_room: int = 0
    """The number of sessions that are open together on this machine's processor while half of its free memory is left;
    `group` are in any case. The more there are, the more time the visits to each are spread over."""

    def __post_init__(self) -> None:
        if min(self.group, self.visits) < 1 or self.group_with_room < 0 or not 0 <= self.idle_s < float("inf"):
            raise ValueError(f"a measurement needs a group and a visit at least, no pause below 0; found {self}")


@dataclass(frozen=True)
class MeasurementProtocol:
    """How to measure. A visit is a few runs of one session; the open sessions are visited in turn.

    docs/latency-protocol.md explains each part, with the figure that it is kept for. Raises `ValueError` for settings
    that nothing can be measured with.
    """

    blocks: Rounds = Rounds(group=50, visits=5)
    """The rounds for blocks. A table adds them up, so that what disturbs single ones is evened out."""
    networks: Rounds = Rounds(group=16, visits=30, group_with_room=65)
    """The rounds for whole networks, in smaller groups where memory is scarce, because an open network takes up to
    200 MB. Visits are many and short: what slows a machine lasts longer than a visit, so that runs of one visit tell
    little more than one run. And they are spread over as much time as can be, because it may be slow for a minute."""
    warmup: int = 3
    """The runs thrown away before the first visit."""
    discarded: int = 2
    """The runs thrown away at the start of a visit: the session before has filled the caches, and of a network of
    millions of parameters the second run is nearly as slow as the first."""
    kept: int = 2
    """The runs of a visit that count."""
    shortest_run_s: float = 1e-3
    """Seconds that a run lasts at least: it is as many calls as take about so long, one or more, and its time is their
    mean."""
    shortest_group_s: float = 2.0
    """Seconds of measured runs in a group at least, beyond its number of visits if need be. Other processes slow a
    machine for up to a second; a group of few fast models would otherwise fall into such a slow phase as a whole."""
    noisy_above: float = 1.2
    """The p90/p50 above which a timing is flagged; where there is no reference graph it is measured again, too."""
    drift_above: float = 1.05
    """The factor by which the reference graph was faster or slower than usual, above which a timing is flagged, and
    measured again."""
    sustained_s: float = 0.0
    """Seconds of calls back to back by which throughput is measured, besides; 0: it is not."""
    retries: int = 3
    """How often a campaign measures again what was disturbed (`nasdeploy.latency.campaign`); 0: never."""
    wait_s: float = 1.0
    """Seconds of pause before measuring again."""
    calibration_networks: int = 24
    """The number of whole networks that the table is calibrated on."""
    held_out_networks: int = 40
    """The number of whole networks that tell the table's error."""

    def __post_init__(self) -> None:
        if min(self.warmup, self.kept, self.calibration_networks) < 1:
            raise ValueError(f"a protocol needs runs to warm up, runs to keep, and networks; found {self}")
        if self.shortest_run_s <= 0 or min(self.noisy_above, self.drift_above) <= 1:
            raise ValueError(f"a protocol has shortest_run_s > 0, noisy_above and drift_above > 1; found {self}")
        others = (self.retries, self.wait_s, self.shortest_group_s, self.sustained_s, self.held_out_networks)
        if min(self.discarded, *others) < 0:
            raise ValueError(f"nothing in a protocol is negative; found {self}")

    def running_s(self, seconds: float, visits: int) -> float:
        """Return the seconds that the runs of `visits` visits take to a model whose calls take `seconds`.

        The warm-up is included, pauses are not.
        """
        return (self.warmup + visits * (self.discarded + self.kept)) * max(seconds, self.shortest_run_s)

    def with_idle(self, idle_ms: float) -> "MeasurementProtocol":
        """Return this protocol for a device with gaps of `idle_ms` milliseconds: whole networks are measured after
        them.

        Blocks are not, since their calls are parts of one; how networks differ from their sum, calibration finds out.
        """
        return replace(self, networks=replace(self.networks, idle_s=idle_ms / 1e3))


@dataclass(frozen=True)
class SustainedCalls:
    """The calls that were done back to back within so many seconds of the clock, whatever stopped them meanwhile.

    One over the median call is no throughput: where a quota lets processors work half of the time, it is twice that.
    Raises `ValueError` if nothing was done.
    """

    calls: int
    """The number of calls."""
    seconds: float
    """The seconds in which they were done."""

    def __post_init__(self) -> None:
        if self.calls < 1 or not 0 < self.seconds < float("inf"):
            raise ValueError(f"a throughput is of calls that take time; found {self}")

    @property
    def per_s(self) -> float:
        """The calls a second."""
        return self.calls / self.seconds


BETWEEN_PROCESSES = 0.03
"""The relative difference that two measurements of one thing in two processes have on a quiet machine, or more."""
UNDISTURBED = 10
"""The percentile of runs that counts as undisturbed (`Timing.undisturbed`)."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median and percentiles of `n` runs, and when they were made (UTC, ISO 8601).

    Raises `ValueError` for numbers that no measurement yields.
    """

    median: float
    """The seconds that half of the calls took at most."""
    p10: float
    """The seconds that 10 % of the calls took at most."""
    p90: float
    """The seconds that 90 % of the calls took at most."""
    p95: float
    """The seconds that 95 % of the calls took at most."""
    n: int
    """The number of runs."""
    at: str
    """The time of the measurement: UTC, ISO 8601."""
    noise: Noise = ""
    """Why it is not to be trusted; empty if it is."""
    reference: float | None = None
    """The undisturbed seconds of the reference graph meanwhile, if there was one."""
    throughput: SustainedCalls | None = None
    """The throughput; None where it was not measured."""
    processes: tuple[float, ...] = ()
    """The medians of the processes that it was measured in, ascending; each has its own place in memory, and its own
    speed. Empty where it was only one. The percentiles are then the medians of the processes'."""

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
        """The p90/p50 of its runs."""
        return self.p90 / self.median

    @property
    def process_spread(self) -> float | None:
        """The largest by the smallest median of its processes; None where it was one."""
        return self.processes[-1] / self.processes[0] if self.processes else None

    @property
    def band(self) -> tuple[float, float]:
        """Seconds between which medians of other processes are to be expected."""
        if not self.processes:
            return self.median * (1 - BETWEEN_PROCESSES), self.median * (1 + BETWEEN_PROCESSES)
        middle = median(self.processes)
        return self.median * self.processes[0] / middle, self.median * self.processes[-1] / middle

    def ties(self, other: "Timing") -> bool:
        """Return whether it and `other` cannot be told apart, because another process may well find their medians the
        other way."""
        return self.band[0] <= other.band[1] and other.band[0] <= self.band[1]


def utc_now() -> str:
    """Return the time in the form of `Timing.at`."""
    return strftime("%Y-%m-%dT%H:%M:%S+00:00", gmtime())


def quality(timing: Timing, usual: float | None = None, drift_above: float = inf) -> tuple[float, int, float, str]:
    """Return a key by which better timings are larger: less disturbed, else of more runs, else faster, else later.

    Faster is better because what disturbs a call never shortens it. `usual` are the seconds of the reference graph at
    the machine's usual speed, if they are known.
    """
    return -disturbance(timing, usual, drift_above), timing.n, -timing.undisturbed, timing.at


def disturbance(timing: Timing, usual: float | None, drift_above: float) -> float:
    """Return how much a timing was disturbed, as a factor; 1 if it was not.

    It is how much slower or faster than usual the machine was. Where no reference graph tells that, it is the p90/p50
    of runs that vary too much. Infinite where the timing says that something else disturbed it.
    """
    if timing.noise not in ("", "spread"):
        return inf
    if usual is None or timing.reference is None:
        return timing.spread if timing.noisy else 1.0
    ratio = _drift(timing, usual, drift_above) or 1.0
    return max(ratio, 1 / ratio)


def disturbances(timings: Mapping[str, Timing], drift_above: float) -> dict[str, float]:
    """Return the `disturbance` of each timing that was disturbed, by key."""
    usual = usual_reference(timings.values())
    found = {key: disturbance(timing, usual, drift_above) for key, timing in timings.items()}
    return {key: factor for key, factor in found.items() if factor > 1}


def disturbed_by(timings: Mapping[str, Timing], drift_above: float) -> str:
    """Say in words what disturbed some of these timings."""
    drifts = drifted(timings, drift_above).values()
    spreads = [each.spread for each in timings.values() if each.noise == "spread" and each.reference is None]
    worst = max(drifts, key=lambda ratio: abs(log(ratio)), default=1.0)
    sensed = {timing.noise for timing in timings.values()}
    reasons = {
        f"runs varied (p90/p50 up to {max(spreads, default=1.0):.2f})": bool(spreads),
        f"the reference graph took up to {worst:.2f} times as long as usual meanwhile": bool(drifts),
        "the processor's frequency changed": "frequency" in sensed,
        "the processor was throttled": "throttling" in sensed,
        "the quota of processors' time was used up": "quota" in sensed,
    }
    return " and ".join(reason for reason, holds in reasons.items() if holds)


# -- drift


def usual_reference(timings: Iterable[Timing]) -> float | None:
    """Return the seconds of the reference graph at the machine's usual speed, the median; None where there is none."""
    references = [timing.reference for timing in timings if timing.reference is not None]
    return median(references) if references else None


def drifted(timings: Mapping[str, Timing], drift_above: float) -> dict[str, float]:
    """Return how many times as long as usual the reference graph took, where that is more than `drift_above`, or less
    than its inverse, by key. Timings without a reference do not take part."""
    usual = usual_reference(timings.values())
    return {key: ratio for key, one in timings.items() if (ratio := _drift(one, usual, drift_above)) is not None}


def _drift(timing: Timing, usual: float | None, above: float) -> float | None:
    if usual is None or timing.reference is None:
        return None
    ratio = timing.reference / usual
    return ratio if max(ratio, 1 / ratio) > above else None


def flagged(timings: Mapping[str, Timing], drift_above: float) -> dict[str, Timing]:
    """Return `timings`, with the noise `drift` where the machine drifted and nothing else is wrong."""
    found = drifted(timings, drift_above)
    return {
        key: replace(timing, noise="drift") if key in found and not timing.noisy else timing
        for key, timing in timings.items()
    }


def corrected(timing: Timing, usual: float | None, power: float) -> Timing:
    """Return a timing at the speed at which the reference graph takes `usual` seconds.

    It is divided by the `power`-th power of how much longer than usual the reference graph took meanwhile; it stays as
    it is where either is not known.
    """
    if usual is None or timing.reference is None:
        return timing
    factor = (usual / timing.reference) ** power
    return replace(
        timing,
        median=timing.median * factor,
        p10=timing.p10 * factor,
        p90=timing.p90 * factor,
        p95=timing.p95 * factor,
    )
