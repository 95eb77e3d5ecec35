"""How far below a latency budget a network has to be so that it holds: before it is measured, and then. Torch-free."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist

from nasdeploy.latency.protocol import Timing
from nasdeploy.latency.table import LatencyTable
from nasdeploy.searching.budget import Budget, LatencyLimit, Range


def meets(timing: Timing, limit: LatencyLimit, reserve: float) -> bool:
    """Whether a measured network keeps to a limit, with the part `reserve` of each upper bound left free."""
    median, p95 = limit.median, limit.p95
    return median.low <= timing.median <= median.high * (1 - reserve) and p95.low <= timing.p95 <= p95.high * (
        1 - reserve
    )


def predicted_budget(
    budget: Budget,
    tables: Sequence[LatencyTable],
    ends: Sequence[tuple[float, float]],
    slowness: Mapping[str, float],
    *,
    probability: float,
    reserve: float,
) -> Budget:
    """The budget that predictions have to keep to, so that a network of them measures within `budget`.

    A prediction's relative error is taken to be normal, with the table's standard deviation s at the bound b:
    predicted = measured (1 + e). An upper bound b on what is measured then holds with `probability` P if the
    prediction is at most b (1 - reserve) (1 - z s), where z is the normal quantile of P, and a lower one if it is at
    least b (1 + z s). On devices whose measured networks were slower than predicted by a factor in `slowness`, bounds
    are divided by it. No bound leaves the reachable latencies `ends` of its table: the fastest network may be
    tried in any case.
    """
    z = NormalDist().inv_cdf(probability)
    limits = dict(budget.latency)
    for table, end in zip(tables, ends, strict=True):
        name = table.conditions.device.name
        if name not in limits:
            continue
        factor, limit = max(1.0, slowness.get(name, 1.0)), limits[name]
        p95_end = (end[0] * table.p95_ratio, end[1] * table.p95_ratio)
        limits[name] = LatencyLimit(
            _narrowed(limit.median, z * _deviation(table, limit.median), reserve, factor, end),
            _narrowed(limit.p95, z * _deviation(table, limit.p95, table.p95_ratio), reserve, factor, p95_end),
        )
    return replace(budget, latency=limits)


def _deviation(table: LatencyTable, bound: Range, ratio: float = 1.0) -> float:
    """The table's relative standard deviation at a bound."""
    if not bound.bounded:
        return 0.0
    at = bound.high if 0 < bound.high < float("inf") else bound.low
    return table.uncertainty(at / ratio) if at > 0 else 0.0


def _narrowed(bound: Range, margin: float, reserve: float, factor: float, end: tuple[float, float]) -> Range:
    """A bound with its margins on a device that is slower by `factor`; one that excludes all leaves the nearest."""
    if not bound.bounded:
        return bound
    low, high = bound.low / factor, bound.high / factor
    safe = Range(low * (1 + margin), high * (1 - reserve) * max(1 - margin, 0.0))
    # A range that is narrower than its margins is asked for as it is.
    low, high = (safe.low, safe.high) if safe.low <= safe.high else (low, high)
    # Sums over slots are rounded differently in different orders.
    return Range(min(low, end[1] * (1 - 1e-9)), max(high, end[0] * (1 + 1e-9)))
