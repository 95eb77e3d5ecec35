"""Results of searches without searching."""

from typing import Any

from nasdeploy.searching.result import BudgetRecord, LatencyBounds, LatencyRecord, NetworkRecord, SearchResult
from nasdeploy.tasks.metrics import TOP1

NO_BOUNDS = BudgetRecord(latency={})


def at_most(latency_ms: float | None = None, device: str = "cpu", **others: float) -> BudgetRecord:
    """A budget of upper bounds; `others` by the names of costs."""
    latency = {} if latency_ms is None else {device: LatencyBounds(median_ms=(None, latency_ms), p95_ms=None)}
    bounds: dict[str, tuple[float | None, float | None]] = {name: (None, bound) for name, bound in others.items()}
    return BudgetRecord(latency=latency, costs=bounds)


def found(
    digest: str = "0123456789ab", arch: dict[str, Any] | None = None, value: float = 0.5, **more: Any
) -> NetworkRecord:
    """One network; `predicted` and `measured` milliseconds are those on cpu."""
    predicted, measured = more.pop("predicted", None), more.pop("measured", None)
    latency = {} if predicted is None else {"cpu": latency_of(predicted, measured)}
    costs = {"macs": 1, "params": 1, "size": 1.0, "memory": 1.0, **more.pop("costs", {})}
    known = {"loss": 1.0, "costs": costs, "latency": latency}
    return NetworkRecord(digest=digest, arch=arch or {}, value=value, error=0.01, **{**known, **more})


def latency_of(predicted: float, measured: float | None = None) -> LatencyRecord:
    """Milliseconds on one device, measured within 5 %."""
    if measured is None:
        return LatencyRecord(predicted_ms=predicted, uncertainty_ms=0.05 * predicted)
    return LatencyRecord(
        predicted_ms=predicted,
        uncertainty_ms=0.05 * predicted,
        measured_ms=measured,
        measured_p10_ms=0.95 * measured,
        measured_p90_ms=1.05 * measured,
        measured_p95_ms=1.06 * measured,
    )


def result(winner: NetworkRecord, budget: BudgetRecord, **more: Any) -> SearchResult:
    """A search that found `winner`."""
    made = SearchResult(
        id="12345678",
        finished="2026-11-24T00:00:00+00:00",
        strategy="evolution",
        supernet="x",
        space="digest",
        devices=tuple(budget.latency),
        budget=budget,
        probability=0.9,
        rounds=1,
        evaluated=4,
        metric=TOP1,
        samples=100,
        winner=winner,
        ties=(),
        finalists=(winner,),
        front=(winner,),
        latency_fidelity={},
    )
    return made.model_copy(update=more)
