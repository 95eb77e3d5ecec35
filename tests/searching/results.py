"""Results of searches without searching."""

from typing import Any

from nasdeploy.searching.result import BudgetRecord, Found, Latency, LatencyBounds, SearchResult

NO_BOUNDS = BudgetRecord(latency={}, macs_m=None, params_m=None, size_mb=None, memory_mb=None)


def at_most(latency_ms: float | None = None, device: str = "cpu", **others: float) -> BudgetRecord:
    """A budget of upper bounds."""
    latency = {} if latency_ms is None else {device: LatencyBounds(median_ms=(None, latency_ms), p95_ms=None)}
    bounds = {name: (None, bound) for name, bound in others.items()}
    return NO_BOUNDS.model_copy(update={"latency": latency, **bounds})


def found(digest: str = "0123456789ab", arch: dict[str, Any] | None = None, top1: float = 0.5, **more: Any) -> Found:
    """One network; `predicted` and `measured` milliseconds are those on cpu."""
    predicted, measured = more.pop("predicted", None), more.pop("measured", None)
    latency = {} if predicted is None else {"cpu": latency_of(predicted, measured)}
    known = {"cross_entropy": 1.0, "macs": 1, "params": 1, "size_mb": 1.0, "memory_mb": 1.0, "latency": latency}
    return Found(digest=digest, arch=arch or {}, top1=top1, top1_error=0.01, **{**known, **more})


def latency_of(predicted: float, measured: float | None = None) -> Latency:
    """Milliseconds on one device, measured within 5 %."""
    if measured is None:
        return Latency(predicted_ms=predicted, uncertainty_ms=0.05 * predicted)
    return Latency(
        predicted_ms=predicted,
        uncertainty_ms=0.05 * predicted,
        measured_ms=measured,
        measured_p10_ms=0.95 * measured,
        measured_p90_ms=1.05 * measured,
        measured_p95_ms=1.06 * measured,
    )


def result(winner: Found, budget: BudgetRecord, **more: Any) -> SearchResult:
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
        images=100,
        winner=winner,
        ties=(),
        finalists=(winner,),
        front=(winner,),
        latency_fidelity={},
    )
    return made.model_copy(update=more)
