"""A latency table as a report shows it: predictions beside what was measured, its error, and what disturbed it."""

from collections.abc import Mapping
from dataclasses import dataclass

from nasdeploy.core.errors import UserError
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.calibration import HeldOutError
from nasdeploy.latency.protocol import Timing, usual_reference
from nasdeploy.latency.table import LatencyTable, MeasuredNetwork, predicted


@dataclass(frozen=True)
class PredictedNetwork:
    """A whole network of the table: what the table predicts, and what was measured; times in milliseconds."""

    digest: str
    """The digest of the architecture; empty if it is none of the space's."""
    arch: Mapping[str, object]
    """The architecture as nested JSON."""
    role: str
    """`calibration` (the table was fitted on it), `held-out` (it tells the error), or `search` (a finalist)."""
    predicted_ms: float
    """The predicted median in milliseconds."""
    measured_ms: float
    """The measured median in milliseconds."""
    p10_ms: float
    """The milliseconds that 10 % of the calls took at most."""
    p90_ms: float
    """The milliseconds that 90 % of the calls took at most."""
    runs: int
    """The number of runs."""
    at: str
    """The time of the measurement: UTC, ISO 8601."""
    noise: str
    """Why the timing is not to be trusted: `spread`, `drift`, `throttling`, `frequency` or `quota`; else empty."""


@dataclass(frozen=True)
class SlowBlock:
    """A block of the table, undisturbed."""

    key: str
    """The row in the table, which names every field of the block."""
    ms: float
    """The milliseconds of a call."""
    noise: str
    """Why the timing is not to be trusted; empty if it is."""


@dataclass(frozen=True)
class TableReport:
    """A latency table of the run's space; times in milliseconds."""

    file: str
    """The path of the table."""
    device: str
    """The name of the device."""
    runtime: str
    """The runtime of the device."""
    runtime_version: str
    """The version of the runtime; empty where the table does not say it."""
    precision: str
    """The precision of the device."""
    batch: int
    """The images of a call."""
    threads: int
    """The threads that the runtime may use."""
    processor: str
    """The processor or accelerator that was measured."""
    created: str
    """UTC, ISO 8601."""
    entries: int
    """The number of measured blocks."""
    low_ms: float
    """The predicted milliseconds of the fastest network of the space."""
    high_ms: float
    """The predicted milliseconds of the slowest network of the space."""
    uncertainty: float
    """The standard deviation of relative errors of predictions (0.02 for 2 per cent): the error band is the prediction
    times 1 -+ this."""
    p95_ratio: float
    """The 95th percentile by the median of whole networks' calls."""
    held_out: HeldOutError | None
    """The relative error on the medians of the held-out networks; None for fewer than three."""
    held_out_undisturbed: HeldOutError | None
    """The relative error on undisturbed calls of the same networks."""
    networks: tuple[PredictedNetwork, ...]
    """The whole networks by rising measured latency."""
    noise: Mapping[str, int]
    """The number of blocks and networks that are not to be trusted, by reason."""
    drift: tuple[float, float] | None
    """The least and the most time of the reference graph as a multiple of its usual time; None without one."""
    steadied: float
    """The power of that multiple by which timings were divided; 0 where they were not."""
    slowest: tuple[SlowBlock, ...]
    """The blocks that take longest, at most ten."""


_SLOWEST = 10


def table_report(table: LatencyTable, space: SearchSpace, file: str) -> TableReport:
    """Return what a report shows of the table of `space` in a file."""
    conditions, device = table.conditions, table.conditions.device
    low, high = table.range(space)
    slowest = sorted(table.entries.items(), key=lambda entry: -entry[1].undisturbed)[:_SLOWEST]
    timings = [*table.entries.values(), *(network.timing for network in table.networks)]
    found = [
        _network(network, seconds, space)
        for network, seconds in zip(table.networks, predicted(table.calibration, table.networks), strict=True)
    ]
    return TableReport(
        file=file,
        device=device.name,
        runtime=device.runtime,
        runtime_version=conditions.fingerprint.runtime.partition(" ")[2],
        precision=device.precision,
        batch=device.batch,
        threads=device.threads,
        processor=conditions.fingerprint.cpu,
        created=table.created,
        entries=len(table.entries),
        low_ms=1e3 * low,
        high_ms=1e3 * high,
        uncertainty=table.uncertainty,
        p95_ratio=table.p95_ratio,
        held_out=table.held_out,
        held_out_undisturbed=table.held_out_undisturbed,
        networks=tuple(sorted(found, key=lambda network: network.measured_ms)),
        noise=table.noise,
        drift=_drift(timings),
        steadied=table.steadied,
        slowest=tuple(SlowBlock(key, 1e3 * timing.undisturbed, timing.noise) for key, timing in slowest),
    )


def _network(network: MeasuredNetwork, seconds: float, space: SearchSpace) -> PredictedNetwork:
    timing = network.timing
    try:
        digest = space.arch(network.arch).digest
    except UserError:
        digest = ""
    return PredictedNetwork(
        digest=digest,
        arch=network.arch,
        role=network.role,
        predicted_ms=1e3 * seconds,
        measured_ms=1e3 * timing.median,
        p10_ms=1e3 * timing.p10,
        p90_ms=1e3 * timing.p90,
        runs=timing.n,
        at=timing.at,
        noise=timing.noise,
    )


def _drift(timings: list[Timing]) -> tuple[float, float] | None:
    """Return the extremes of what the reference graph took as a multiple of its usual time."""
    usual = usual_reference(timings)
    ratios = [timing.reference / usual for timing in timings if usual and timing.reference is not None]
    return (min(ratios), max(ratios)) if ratios else None
