"""Figures: what a search found over its cost, what each cut saves and costs, supernets and runtimes side by side.

Box plots of sub-networks' accuracies are those of AlphaNet, Figures 9 and 10.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nasdeploy.core.costs import Floats
from nasdeploy.core.score import Metric
from nasdeploy.searching.loss_table import NO_NUMBER, LossTable, cuts
from nasdeploy.searching.problem import Problem
from nasdeploy.store.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nasdeploy.report.networks import FrontReport


def write_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as a PNG, or what else its name ends in, whole or not at all; equal ones give equal files."""
    metadata = {"Date": None} if path.suffix.lower() == ".svg" else {}
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120, metadata=metadata)


def draw_front(found: "FrontReport", metric: Metric, evaluated: Sequence[tuple[float, float]], path: Path) -> None:
    """Draw all evaluated networks as (cost in its unit, score), the Pareto front, finalists, the winner.

    The file is what its name ends in, e.g. a PNG or an SVG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes, front = figure.subplots(), [(point, point.cost) for point in found.front if point.cost is not None]
    axes.scatter(
        [cost for cost, _ in evaluated],
        [metric.scale * value for _, value in evaluated],
        s=12,
        color="0.75",
        label=f"evaluated ({len(evaluated)})",
    )
    axes.errorbar(
        [cost for _, cost in front],
        [metric.scale * point.value for point, _ in front],
        xerr=[point.uncertainty for point, _ in front],
        yerr=[metric.scale * point.error for point, _ in front],
        color="tab:blue",
        marker="o",
        markersize=4,
        linewidth=1,
        elinewidth=0.8,
        capsize=2,
        label="Pareto front, +- one standard error",
    )
    _draw_measured(axes, found, metric)
    measured = " (front: predicted, finalists: measured)" if found.is_latency else ""
    axes.set_xlabel(f"{found.axis}{measured}")
    axes.set_ylabel(f"{metric.heading} on {found.samples} held-out training {metric.samples}")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right" if metric.maximise else "upper right")
    write_figure(figure, path)


def _draw_measured(axes: "Axes", found: "FrontReport", metric: Metric) -> None:
    """Draw finalists at their measured latency, the winner, and the budget."""
    scale, device = metric.scale, found.devices[0] if found.devices else ""
    pairs = [(point, point.measured_ms[device]) for point in found.finalists if device in point.measured_ms]
    spread = [(point, one.p10, one.median, one.p90) for point, one in pairs if one.p10 and one.p90]
    if spread:
        axes.errorbar(
            [median for _, _, median, _ in spread],
            [scale * point.value for point, *_ in spread],
            xerr=[[median - p10 for _, p10, median, _ in spread], [p90 - median for _, _, median, p90 in spread]],
            yerr=[scale * point.error for point, *_ in spread],
            color="tab:orange",
            marker="x",
            linestyle="none",
            elinewidth=0.8,
            capsize=2,
            zorder=3,
            label="finalists, measured: p10, median, p90",
        )
    winner = found.winner
    cost = winner.measured_ms[device].median if device in winner.measured_ms else winner.cost
    if cost is not None:
        axes.scatter([cost], [scale * winner.value], marker="*", s=180, color="tab:red", zorder=4, label="chosen")
    bound = found.axis_bound
    bounds = () if bound is None else (bound.low, bound.high)
    for place, each in enumerate(one for one in bounds if one is not None):
        axes.axvline(each, color="tab:red", linewidth=1, linestyle="--", label="_" if place else "budget")


def draw_cuts(problem: Problem, losses: LossTable, path: Path) -> None:
    """Draw a PNG: for each cut of the largest network, made alone, what it saves of the cost on the axis and its loss.

    Those are named that save most for their loss. Losses below a thousandth of a nat stand there.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes, known = figure.subplots(), [cut for cut in priced_cuts(problem, losses) if cut.loss < NO_NUMBER]
    colours = mpl.colormaps["tab20"].colors  # type: ignore[attr-defined]
    for number, group in enumerate(dict.fromkeys(cut.group for cut in known)):
        of_group = [cut for cut in known if cut.group == group]
        places = [100 * cut.saved for cut in of_group], [max(cut.loss, _LEAST_LOSS) for cut in of_group]
        axes.scatter(*places, s=22, color=colours[number % len(colours)], label=group)
    named = 2.0
    for cut in best_priced(known):
        if named - cut.saved < _NAMED_APART:
            continue
        named, place = cut.saved, (100 * cut.saved, max(cut.loss, _LEAST_LOSS))
        axes.annotate(cut.text, place, xytext=(4, -8), textcoords="offset points", fontsize="x-small")
    axes.margins(x=0.15)
    axes.set_yscale("log")
    axes.set_xlabel(f"saved of the largest network's {problem.axis} in %")
    axes.set_ylabel(f"divergence of outputs in nats, {losses.samples} samples")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=6, fontsize="small")
    write_figure(figure, path)


_LEAST_LOSS = 1e-3
_NAMED_APART = 0.015
"""The difference in what is saved, below which the names of two cuts would cover each other."""


@dataclass(frozen=True)
class PricedCut:
    """A cut of the largest network, with what it brings and what it costs."""

    group: str
    """The stage (from 1), or the choice of no stage."""
    text: str
    """The values that are others than the largest network's, for people."""
    saved: float
    """The part that is saved of the largest network's cost on the problem's axis."""
    loss: float
    """The divergence in nats; `NO_NUMBER` where outputs were no numbers."""


def priced_cuts(problem: Problem, losses: LossTable) -> list[PricedCut]:
    """Return all cuts of a problem's space that the table knows."""
    space, known = problem.space, losses.losses
    largest, found = space.largest(), [cut for cut in cuts(space) if cut.arch.digest in known]
    costs = problem.costs(space.encode([largest, *(cut.arch for cut in found)]))[:, problem.axis.column]
    priced = []
    for cut, cost in zip(found, costs[1:].tolist(), strict=True):
        group = next(iter(cut.values)) if cut.stage is None else f"stage {cut.stage + 1}"
        priced.append(PricedCut(group, cut.text, float(1 - cost / costs[0]), known[cut.arch.digest]))
    return priced


def best_priced(priced: Sequence[PricedCut]) -> list[PricedCut]:
    """Return the cuts beside which none saves as much for a smaller loss, or more for the same, by falling saving."""
    found: list[PricedCut] = []
    for cut in sorted(priced, key=lambda cut: (-cut.saved, cut.loss)):
        if cut.saved > 0 and (not found or cut.loss < found[-1].loss):
            found.append(cut)
    return found


@dataclass(frozen=True)
class LatencyBar:
    """A latency in milliseconds, and what is written beside it."""

    label: str
    p10_ms: float
    median_ms: float
    p90_ms: float
    note: str = ""
    """The words at the end of the bar."""


def draw_latencies(bars: Sequence[LatencyBar], title: str, path: Path) -> None:
    """Draw a PNG: a bar below the other for each latency, as long as the median, with p10 and p90."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.4 + 0.45 * len(bars)), layout="constrained")
    axes = figure.subplots()
    axes.barh(
        [bar.label for bar in bars],
        [bar.median_ms for bar in bars],
        xerr=[[bar.median_ms - bar.p10_ms for bar in bars], [bar.p90_ms - bar.median_ms for bar in bars]],
        height=0.7,
        color="tab:blue",
        alpha=0.6,
        error_kw={"elinewidth": 0.8, "capsize": 2},
    )
    for place, bar in enumerate(bars):
        axes.annotate(
            f"{bar.median_ms:.4g} ms{bar.note}",
            (bar.p90_ms, place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )
    axes.invert_yaxis()
    axes.margins(x=0.35)
    axes.set_xlim(left=0.0)
    axes.set_xlabel("latency in ms: median, p10 and p90")
    axes.set_title(title, fontsize="medium")
    axes.grid(axis="x", alpha=0.3)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120, format="png")


_WIDTH = 0.8
"""The width of all boxes of a regime together; regimes are 1 apart."""


_SHORT = 30
"""Characters of labels of which three fit below the narrowest picture."""


@dataclass(frozen=True)
class Box:
    """The five numbers of a box plot, and of how many values they are."""

    count: int
    """The number of values."""
    minimum: float
    """The least value."""
    first_quartile: float
    """The value below which a quarter of them lies."""
    median: float
    """The middle value, in the unit of the values."""
    third_quartile: float
    """The value below which three quarters of them lie."""
    maximum: float
    """The greatest value."""


def box_of(values: Sequence[float]) -> Box | None:
    """Return the box of some values, with quartiles interpolated linearly; None if there are none."""
    if not values:
        return None
    low, first, middle, third, high = (float(v) for v in np.quantile(np.array(values), [0, 0.25, 0.5, 0.75, 1]))
    return Box(len(values), low, first, middle, third, high)


@dataclass(frozen=True)
class Series:
    """The boxes of one supernet: scores for each regime, None where it has no network."""

    label: str
    boxes: tuple[Box | None, ...]


def draw_boxes(series: Sequence[Series], edges: Floats, path: Path, score: str, scale: float) -> None:
    """Draw a PNG with a group of boxes for each regime between the MACs `edges` `[regimes + 1]`.

    `score` names the axis, e.g. `accuracy in % on 500 images`, which shows `scale` times what the boxes hold.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    regimes = len(edges) - 1
    figure = Figure(figsize=(max(8.0, 0.45 * regimes * (1 + len(series))), 5), layout="constrained")
    axes = figure.subplots()
    colours = mpl.colormaps["tab10"].colors  # type: ignore[attr-defined]
    width = _WIDTH / len(series)
    for number, one in enumerate(series):
        places = [n for n, box in enumerate(one.boxes) if box is not None]
        axes.bxp(
            [_scaled(box, scale) for box in one.boxes if box is not None],
            positions=[n + (number - (len(series) - 1) / 2) * width for n in places],
            widths=0.8 * width,
            showfliers=False,
            patch_artist=True,
            manage_ticks=False,
            boxprops={"facecolor": (*colours[number % len(colours)], 0.6)},
            medianprops={"color": "black", "linewidth": 1.5},
        )
    axes.set_xticks(range(regimes), [_regime(low, high) for low, high in pairwise(edges)])
    axes.set_xlim(-0.6, regimes - 0.4)
    axes.set_xlabel("MACs in millions")
    axes.set_ylabel(score)
    axes.grid(axis="y", alpha=0.3)
    patches = [Patch(facecolor=(*colours[n % len(colours)], 0.6), edgecolor="black") for n in range(len(series))]
    labels = [one.label for one in series]
    # Outside, where it hides no box; long names stand below each other, or the picture would cut them off.
    columns = min(3, len(series)) if max(map(len, labels)) <= _SHORT else 1
    figure.legend(patches, labels, loc="outside lower center", ncols=columns)
    axes.set_title("Sub-networks: minimum, quartiles, maximum", fontsize="medium")
    write_figure(figure, path)


def _scaled(box: Box, scale: float) -> dict[str, float]:
    """Return a box as matplotlib takes it."""
    return {
        "whislo": scale * box.minimum,
        "q1": scale * box.first_quartile,
        "med": scale * box.median,
        "q3": scale * box.third_quartile,
        "whishi": scale * box.maximum,
    }


def _regime(low: float, high: float) -> str:
    return f"{low / 1e6:.3g} to {high / 1e6:.3g}"
