"""The Pareto picture of a search: accuracy over cost, with the networks that were measured."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nasdeploy.searching.result import Found, SearchResult
from nasdeploy.store.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_front(result: SearchResult, evaluated: Sequence[tuple[float, float]], path: Path) -> None:
    """Draw a PNG: all evaluated networks as (seconds, MACs or parameters; top-1), the front, finalists, the winner."""
    from matplotlib.figure import Figure

    label, scale = _axis(result)
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.scatter(
        [scale * cost for cost, _ in evaluated],
        [100 * top1 for _, top1 in evaluated],
        s=12,
        color="0.75",
        label=f"evaluated ({len(evaluated)})",
    )
    front = result.front
    axes.errorbar(
        [_cost(found, result) for found in front],
        [100 * found.top1 for found in front],
        xerr=[_uncertainty(found) for found in front],
        yerr=[100 * found.top1_error for found in front],
        color="tab:blue",
        marker="o",
        markersize=4,
        linewidth=1,
        elinewidth=0.8,
        capsize=2,
        label="Pareto front, +- one standard error",
    )
    _draw_measured(axes, result)
    axes.set_xlabel(label)
    axes.set_ylabel(f"top-1 in % on {result.images} held-out training images")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120)


def _draw_measured(axes: "Axes", result: SearchResult) -> None:
    """Finalists at their measured latency, the winner, and the budget."""
    measured = [(found, one) for found in result.finalists if (one := _measured(found)) is not None]
    if measured:
        axes.errorbar(
            [ms for _, (_, ms, _) in measured],
            [100 * found.accuracy for found, _ in measured],
            xerr=[[ms - p10 for _, (p10, ms, _) in measured], [p90 - ms for _, (_, ms, p90) in measured]],
            yerr=[100 * found.top1_error for found, _ in measured],
            color="tab:orange",
            marker="x",
            linestyle="none",
            elinewidth=0.8,
            capsize=2,
            zorder=3,
            label="finalists, measured: p10, median, p90",
        )
    winner = result.winner
    cost = _cost(winner, result) if winner.measured_ms is None else winner.measured_ms
    axes.scatter([cost], [100 * winner.accuracy], marker="*", s=180, color="tab:red", zorder=4, label="chosen")
    for place, bound in enumerate(_budget(result)):
        axes.axvline(bound, color="tab:red", linewidth=1, linestyle="--", label="_" if place else "budget")


def _measured(found: Found) -> tuple[float, float, float] | None:
    """p10, median and p90 on the first device, in milliseconds, None if it was not measured."""
    for one in found.latency.values():
        if one.measured_ms is None or one.measured_p10_ms is None or one.measured_p90_ms is None:
            return None
        return one.measured_p10_ms, one.measured_ms, one.measured_p90_ms
    return None


def _uncertainty(found: Found) -> float:
    """Of the prediction on the first device, in milliseconds; 0 for costs that are known."""
    return next((one.uncertainty_ms for one in found.latency.values()), 0.0)


def _budget(result: SearchResult) -> list[float]:
    """The bounds on the cost axis."""
    if result.device is not None:
        bounds = result.budget.latency[result.device].median_ms
    else:
        bounds = getattr(result.budget, _bounded(result))
    return [bound for bound in bounds or () if bound is not None]


def _axis(result: SearchResult) -> tuple[str, float]:
    """Label of the cost axis, and the factor from the search's units to the axis's."""
    if result.device is not None:
        return f"latency in ms on {result.device} (front: predicted, finalists: measured)", 1e3
    return _AXES[_bounded(result)][0], 1e-6


def _cost(found: Found, result: SearchResult) -> float:
    if found.predicted_ms is not None:
        return found.predicted_ms
    return _AXES[_bounded(result)][1](found)


_AXES: Mapping[str, tuple[str, Callable[[Found], float]]] = {
    "macs_m": ("MACs in millions", lambda found: found.macs / 1e6),
    "params_m": ("parameters in millions", lambda found: found.params / 1e6),
    "size_mb": ("size of the file in MB", lambda found: found.size_mb),
}


def _bounded(result: SearchResult) -> str:
    """The axis of a search without latency (see `search.problem.Problem.axis`)."""
    return next((name for name in _AXES if getattr(result.budget, name) is not None), "macs_m")
