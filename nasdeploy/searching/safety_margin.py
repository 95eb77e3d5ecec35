"""How far below a latency budget a network has to be so that it holds: before it is measured, and then. Torch-free."""

from collections.abc import Mapping, Sequence
from statistics import NormalDist

from nasdeploy.core.cost_registry import on_device
from nasdeploy.latency.protocol import Timing
from nasdeploy.latency.table import LatencyTable
from nasdeploy.searching.budget import Budget, Range


def meets(timing: Timing, bounds: Mapping[str, Range], reserve: float) -> bool:
    """Return whether a measured network keeps to a device's bounds, with the part `reserve` of each upper one free."""
    measured = {"latency": timing.median, "latency_p95": timing.p95}
    return all(bound.low <= measured[name] <= bound.high * (1 - reserve) for name, bound in bounds.items())


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
    ranges = dict(budget.ranges)
    for table, end in zip(tables, ends, strict=True):
        device = table.conditions.device.name
        factor = max(1.0, slowness.get(device, 1.0))
        for name, bound in budget.on(device).items():
            ratio = {"latency": 1.0, "latency_p95": table.p95_ratio}[name]
            margin, reach = z * _deviation(table, bound), (end[0] * ratio, end[1] * ratio)
            ranges[on_device(name, device)] = _narrowed(bound, margin, reserve, factor, reach)
    return Budget(ranges)


def _deviation(table: LatencyTable, bound: Range) -> float:
    """Return the table's relative standard deviation, where there is a bound."""
    return table.uncertainty if bound.bounded else 0.0


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
