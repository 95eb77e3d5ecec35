"""What a search found, as JSON. Torch-free."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from nasdeploy.core.errors import UserError
from nasdeploy.core.settings import Settings
from nasdeploy.runtimes.runtime import Precision
from nasdeploy.searching.budget import UNITS, Budget, LatencyLimit, Range
from nasdeploy.store.checkpoints import WeightsFacts
from nasdeploy.store.records import read_object, read_record

SCHEMA_VERSION: Literal[2] = 2


class Latency(Settings):
    """Of a network on one device, in milliseconds; None for what was not measured."""

    predicted_ms: float
    """Median, by the table as it was corrected by the end of the search."""
    uncertainty_ms: float
    """Standard deviation of the prediction."""
    measured_ms: float | None = None
    """Median of the whole network on the device."""
    measured_p10_ms: float | None = None
    measured_p90_ms: float | None = None
    measured_p95_ms: float | None = None
    measured_spread: float | None = None
    """Largest by smallest median of the processes that it was measured in."""


class Found(Settings):
    """One architecture with what is known of it."""

    digest: str
    arch: dict[str, Any]
    top1: float
    """0..1, on training images that were held out."""
    top1_error: float
    """Standard error of `top1`."""
    cross_entropy: float | None
    """In nats; None if the network's logits were no numbers."""
    deployed_top1: float | None = None
    """Like `top1`, but of the network in the first device's precision, as its runtime computes it; None where that was
    not measured: in fp32 and fp16, and of networks that are no finalists within the budget."""
    macs: int
    params: int
    size_mb: float
    """Of the exported file, estimated."""
    memory_mb: float
    """Activations that live at once, batch 1."""
    latency: dict[str, Latency] = Field(default_factory=dict)
    """By device; empty for a search without latency."""

    @property
    def predicted_ms(self) -> float | None:
        """On the first device."""
        return next((one.predicted_ms for one in self.latency.values()), None)

    @property
    def accuracy(self) -> float:
        """Top-1 (0..1) of what is deployed."""
        return self.top1 if self.deployed_top1 is None else self.deployed_top1

    @property
    def measured_ms(self) -> float | None:
        """On the first device."""
        return next((one.measured_ms for one in self.latency.values()), None)


Bounds = tuple[float | None, float | None]
"""Lower and upper bound, None where there is none."""


class LatencyBounds(Settings):
    """On one device."""

    median_ms: Bounds | None
    p95_ms: Bounds | None


class BudgetRecord(Settings):
    """The bounds that were asked for."""

    latency: dict[str, LatencyBounds]
    """By device, the one that the front is drawn over first."""
    macs_m: Bounds | None
    params_m: Bounds | None
    size_mb: Bounds | None
    memory_mb: Bounds | None

    @classmethod
    def of(cls, budget: Budget) -> "BudgetRecord":
        """A budget in the units that users write."""
        latency = {name: _latency(limit) for name, limit in budget.latency.items()}
        others = {name: _bounds(budget.of(name), scale) for name, (_, scale, _) in UNITS.items()}
        return cls(
            latency=latency,
            macs_m=others["macs"],
            params_m=others["params"],
            size_mb=others["size"],
            memory_mb=others["memory"],
        )

    @property
    def latency_ms(self) -> float | None:
        """Upper bound of the median on the first device."""
        for limit in self.latency.values():
            return limit.median_ms[1] if limit.median_ms else None
        return None


def _latency(limit: LatencyLimit) -> LatencyBounds:
    return LatencyBounds(median_ms=_bounds(limit.median, 1e3), p95_ms=_bounds(limit.p95, 1e3))


def _bounds(bound: Range, scale: float) -> Bounds | None:
    if not bound.bounded:
        return None
    low = scale * bound.low if bound.low > 0 else None
    return low, scale * bound.high if bound.high < float("inf") else None


class Fidelity(Settings):
    """How well predictions order networks: Kendall's tau, None with fewer than three networks of different values."""

    networks: int
    tau: float | None
    mean_absolute: float | None = None
    """Mean of |measured / predicted - 1|, for latencies."""
    rmse: float | None = None
    """Root of the mean squared error, for accuracies (0..1)."""


class SearchResult(Settings):
    """A finished search."""

    schema_version: Literal[2] = SCHEMA_VERSION
    id: str
    """Number of the search in its run."""
    finished: str
    """UTC, ISO 8601."""
    strategy: str
    supernet: str
    """Digest of the weights and of how they were evaluated."""
    weights: WeightsFacts | None = None
    """Those that were searched on; None in results of earlier versions."""
    space: str
    devices: tuple[str, ...]
    """Of the latency budget; the first is that of the front. Empty for a search without latency."""
    precision: Precision = "fp32"
    """Of the first device."""
    budget: BudgetRecord
    probability: float
    """With which a network that is predicted to meet the budget does."""
    rounds: int
    """Rounds of search and measurement until a finalist met the budget."""
    evaluated: int
    """Architectures with known accuracy within the budget when it ended."""
    images: int
    """That accuracy was measured on."""
    unreadable: int = 0
    """Held-out images beside these that were left out, because they cannot be read."""
    winner: Found
    ties: tuple[str, ...]
    """Digests of finalists that meet the budget and are within one standard error of the winner."""
    as_fast: tuple[str, ...] = ()
    """Digests of finalists whose latency on the first device is not told from the winner's by several processes."""
    finalists: tuple[Found, ...]
    front: tuple[Found, ...]
    """Pareto front of accuracy over predicted latency (or MACs), by rising cost."""
    latency_fidelity: dict[str, Fidelity]
    """By device: predictions of the table before this search against what was measured in it."""
    accuracy_fidelity: Fidelity | None = None
    """Predicted against evaluated accuracy, of networks that the last predictor was not fitted on; None without one."""

    @property
    def device(self) -> str | None:
        """The first device."""
        return self.devices[0] if self.devices else None


def load_result(path: Path) -> SearchResult:
    """The result of a run's latest search; raises `UserError` if there is none or it is damaged."""
    if not path.exists():
        raise UserError(f"{path}: no search result yet; run 'nasdeploy search --latency-ms X' first")
    remedy = "search again with 'nasdeploy search'"
    version = read_object(path, remedy).get("schema_version")
    if isinstance(version, int) and version != SCHEMA_VERSION:
        raise UserError(
            f"{path}: a search result in version {version} of its form, and this nasdeploy reads version "
            f"{SCHEMA_VERSION}; {remedy}"
        )
    return read_record(SearchResult, path, remedy)
