"""Every picture of a report as a PNG or an SVG, drawn by matplotlib from what the report holds.

Texts of a run are drawn letter by letter: names of classes and networks may hold what would be a formula elsewhere.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nasdeploy.core.errors import UserError, lookup
from nasdeploy.core.escaping import escaped
from nasdeploy.report.architecture import DrawnNetwork
from nasdeploy.report.figures import Series, draw_boxes, draw_front, write_figure
from nasdeploy.report.networks import ScoredNetwork
from nasdeploy.report.run import RunReport
from nasdeploy.report.training import Column, TrainingCurves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ROLES = {"calibration": "tab:gray", "held-out": "tab:blue", "search": "tab:orange"}
_MOST_CLASSES = 30
"""The number of classes up to which each cell of a confusion matrix has its number written into it."""
_NAMED_CLASSES = 100
"""The number of classes up to which they are named."""


def draw(kind: str, report: RunReport, path: Path) -> None:
    """Draw a picture of a report; the file is a PNG or an SVG, whichever its name ends in.

    `kind` is one of `PLOTS`. Raises `UserError` for another one, for another suffix, and where the run has not got to
    what the picture shows.
    """
    plot = lookup("picture", PLOTS, kind)
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: a picture is a PNG or an SVG; give a name that ends in {' or '.join(SUFFIXES)}")
    with _letter_by_letter():
        plot(report, path)


def drawable(report: RunReport) -> list[str]:
    """Return the kinds of pictures that the run has got to."""
    has = {
        "training": bool(report.training),
        "networks": report.sub_networks is not None and bool(report.sub_networks.networks),
        "regimes": report.sub_networks is not None and bool(report.sub_networks.regimes),
        "front": report.search is not None,
        "predicted": bool(report.tables),
        "stages": bool(report.tables),
        "architecture": True,
        "confusion": report.predictions is not None,
    }
    return [kind for kind in PLOTS if has[kind]]


@contextmanager
def _letter_by_letter() -> Iterator[None]:
    """Draw dollar signs as such, make equal files of equal figures, and leave letters that no font has to be boxes."""
    import matplotlib as mpl

    with mpl.rc_context({"text.parse_math": False, "svg.hashsalt": "nasdeploy"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _figure(width: float = 8, height: float = 5) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _missing(report: RunReport, what: str) -> UserError:
    return UserError(f"{report.summary.path}: {what}")


# -- training


def draw_training(report: RunReport, path: Path) -> None:
    """Draw losses by role, and scores of the validated networks, epoch by epoch; a row for each training."""
    if not report.training:
        raise _missing(report, "no epoch is finished yet; go on with `nd.train()`")
    figure = _figure(10, 1 + 3.4 * len(report.training))
    rows = figure.subplots(len(report.training), 2, squeeze=False)
    metric = report.metric
    for (left, right), curves in zip(rows, report.training, strict=True):
        for role, losses in curves.losses.items():
            left.plot(curves.epochs, _gaps(losses), label=role, marker=".")
        for name, scores in curves.scores.items():
            _line(right, curves.epochs, [None if v is None else metric.scale * v for v in scores.values], name)
        left.set_ylabel("training loss")
        right.set_ylabel(f"{metric.heading}, validation")
        for axes in (left, right):
            _phases(axes, curves)
            axes.set_title(curves.title, fontsize="medium")
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.3)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize="small")
    write_figure(figure, path)


def _gaps(values: Column) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _line(axes: "Axes", epochs: Sequence[int], values: Sequence[float | None], name: str) -> None:
    """Draw what there is of a curve, also across epochs without a value."""
    known = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if value is not None]
    if known:
        axes.plot([epoch for epoch, _ in known], [value for _, value in known], label=name, marker=".")


def _phases(axes: "Axes", curves: TrainingCurves) -> None:
    """Mark where phases begin, by their names."""
    for phase in curves.phases:
        if phase.first is not None and phase.name:
            axes.axvline(phase.first - 0.5, color="0.6", linewidth=0.8, linestyle=":")
            place = (phase.first - 0.5, 1.0)
            axes.annotate(
                phase.name,
                place,
                xycoords=("data", "axes fraction"),
                xytext=(3, -10),
                textcoords="offset points",
                fontsize="small",
                color="0.4",
            )


# -- networks and what they cost


def draw_networks(report: RunReport, path: Path) -> None:
    """Draw the scores of all sub-networks that were scored, by MACs and by latency where there is a table."""
    if report.sub_networks is None or not report.sub_networks.networks:
        raise _missing(report, "no sub-network was scored yet; go on with `nd.search()`")
    networks = report.sub_networks.networks
    device = report.tables[0].device if report.tables else None
    costs: dict[str, Callable[[ScoredNetwork], float]] = {"MACs in millions": lambda network: network.macs / 1e6}
    if device is not None:
        costs[f"predicted latency in ms on {device}"] = lambda network: network.predicted_ms[device]
    figure = _figure(5 * len(costs), 4.5)
    metric = report.metric
    for axes, (label, cost) in zip(figure.subplots(1, len(costs), squeeze=False)[0], costs.items(), strict=True):
        axes.scatter(
            list(map(cost, networks)), [metric.scale * one.value for one in networks], s=12, color="tab:blue", alpha=0.5
        )
        axes.set_xlabel(label)
        axes.set_ylabel(f"{metric.heading} on {networks[0].samples} held-out training {metric.samples}")
        axes.grid(alpha=0.3)
    figure.suptitle(f"{len(networks)} sub-networks", fontsize="medium")
    write_figure(figure, path)


def draw_regimes(report: RunReport, path: Path) -> None:
    """Draw the box plots of the latest evaluation by regime of MACs."""
    if report.sub_networks is None or not report.sub_networks.regimes:
        raise _missing(report, "no regimes of MACs were compared yet; use `workflows.evaluate.evaluate()`")
    regimes, metric = report.sub_networks.regimes, report.metric
    edges = np.array([regimes[0].low_macs, *(regime.high_macs for regime in regimes)])
    series = [Series(report.summary.name, tuple(regime.box for regime in regimes))]
    draw_boxes(series, edges, path, f"{metric.heading} on held-out training {metric.samples}", metric.scale)


def draw_search(report: RunReport, path: Path) -> None:
    """Draw the Pareto front of the latest search, measured finalists, the budget and the chosen network."""
    search = report.search
    if search is None:
        raise _missing(report, "no search is finished yet; go on with `nd.search()`")
    known = () if report.sub_networks is None else report.sub_networks.networks
    device = search.devices[0] if search.devices else None
    if device is None:
        evaluated = [(one.macs / 1e6, one.value) for one in known if search.axis.startswith("MACs")]
    else:
        evaluated = [(one.predicted_ms[device], one.value) for one in known if device in one.predicted_ms]
    draw_front(search, report.metric, evaluated, path)


# -- latency


def draw_predicted(report: RunReport, path: Path) -> None:
    """Draw predicted against measured latencies of whole networks, by table, with the error band."""
    if not report.tables:
        raise _missing(report, "no latency table of its space was found; go on with `nd.profile()`")
    figure = _figure(5.5 * len(report.tables), 5)
    for axes, table in zip(figure.subplots(1, len(report.tables), squeeze=False)[0], report.tables, strict=True):
        reach = [each for one in table.networks for each in (one.predicted_ms, one.measured_ms)]
        ends = np.array([0.9 * min(reach), 1.1 * max(reach)])
        axes.plot(ends, ends, color="0.4", linewidth=1)
        low, high = ends * (1 - table.uncertainty), ends * (1 + table.uncertainty)
        axes.fill_between(ends, low, high, color="0.5", alpha=0.2, label=f"error band, {100 * table.uncertainty:.1f} %")
        for role, colour in _ROLES.items():
            for noisy, marker in ((False, "o"), (True, "x")):
                shown = [one for one in table.networks if one.role == role and bool(one.noise) == noisy]
                places = [one.predicted_ms for one in shown], [one.measured_ms for one in shown]
                label = f"{role}{', not to be trusted' if noisy else ''} ({len(shown)})"
                if shown:
                    axes.scatter(*places, s=18, color=colour, marker=marker, label=label)
        axes.set_xlabel("predicted median in ms")
        axes.set_ylabel("measured median in ms")
        axes.set_title(f"{table.device}: {table.runtime}, {table.precision}", fontsize="medium")
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)
    write_figure(figure, path)


def draw_stages(report: RunReport, path: Path) -> None:
    """Draw where the time goes: the predicted milliseconds of each stage, of the networks beside each other."""
    if not report.tables:
        raise _missing(report, "no latency table of its space was found; go on with `nd.profile()`")
    device = report.tables[0].device
    names = list(dict.fromkeys(stage.name for network in report.networks for stage in network.stages))
    figure = _figure(8, 1.5 + 0.32 * len(names) * len(report.networks))
    axes, height = figure.subplots(), 0.8 / len(report.networks)
    for number, network in enumerate(report.networks):
        times = {stage.name: stage.latency_ms[device] for stage in network.stages}
        places = np.arange(len(names)) + (number - (len(report.networks) - 1) / 2) * height
        label = f"{network.role} ({network.predicted_ms[device]:.4g} ms)"
        axes.barh(places, [times.get(name, 0.0) for name in names], height=0.9 * height, label=label)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(f"predicted ms on {device}")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize="small")
    write_figure(figure, path)


# -- the chosen network


def draw_architecture(report: RunReport, path: Path) -> None:
    """Draw the smallest, the chosen and the largest network: a bar for each block, as high as it has channels.

    Its colour tells the kernel, the number in it the expansion.
    """
    import matplotlib as mpl
    from matplotlib.patches import Patch

    kernels = sorted({k for network in report.networks for stage in network.stages for k in stage.kernel_sizes})
    colours = dict(zip(kernels, mpl.colormaps["tab10"].colors, strict=False))  # type: ignore[attr-defined]
    figure = _figure(10, 2.6 * len(report.networks))
    for axes, network in zip(
        figure.subplots(len(report.networks), 1, squeeze=False)[:, 0], report.networks, strict=True
    ):
        place, ticks = 0.0, []
        for stage in network.stages:
            first = place
            for block in stage.blocks:
                axes.bar(place, block.out_channels or 0, 0.9, color=colours.get(block.kernel_size or 0, "0.75"))
                if block.expansion is not None:
                    axes.annotate(f"{block.expansion:.2g}", (place, 0), (0, 2), textcoords="offset points", **_IN_BAR)
                place += 1
            ticks.append(((first + place - 1) / 2, stage.name))
            place += 0.5
        axes.set_xticks([where for where, _ in ticks], [name for _, name in ticks], fontsize="small")
        axes.set_ylabel("channels")
        axes.set_title(_title(network), fontsize="medium", loc="left")
    patches = [Patch(facecolor=colour, label=f"kernel {kernel} x {kernel}") for kernel, colour in colours.items()]
    figure.legend(handles=patches, loc="outside lower center", ncols=6, fontsize="small")
    write_figure(figure, path)


_IN_BAR: dict[str, Any] = {"ha": "center", "fontsize": "x-small", "color": "white"}


def _title(network: DrawnNetwork) -> str:
    images = "" if network.resolution is None else f", images of {network.resolution} pixels"
    times = "".join(f", {ms:.4g} ms on {device}" for device, ms in network.predicted_ms.items())
    return f"{network.role}: {network.macs / 1e6:.4g} M MACs, {network.params / 1e6:.4g} M parameters{images}{times}"


def draw_confusion(report: RunReport, path: Path) -> None:
    """Draw the confusion matrix of the deliverable on the test images: a row for each class, shares of its images."""
    found = report.predictions
    if found is None:
        raise _missing(report, "no predictions of an exported classifier are known; go on with `nd.export()`")
    counts = np.array(found.matrix)
    shares, classes = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), len(found.labels)
    side = min(max(4.5, 0.32 * classes), 14.0)
    figure = _figure(side + 1.5, side)
    axes = figure.subplots()
    figure.colorbar(axes.imshow(shares, cmap="Blues", vmin=0, vmax=1), ax=axes, label="part of the class")
    if classes <= _NAMED_CLASSES:
        names = [label if len(label) <= 24 else f"{label[:21]}..." for label in map(escaped, found.labels)]
        axes.set_xticks(range(classes), names, rotation=90, fontsize="small")
        axes.set_yticks(range(classes), names, fontsize="small")
    for row, column in np.argwhere(counts) if classes <= _MOST_CLASSES else ():
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize="small")
    axes.set_xlabel("predicted class")
    axes.set_ylabel("class")
    axes.set_title(f"{found.correct} of {found.images} test {report.metric.samples} are right", fontsize="medium")
    write_figure(figure, path)


PLOTS: Mapping[str, Callable[[RunReport, Path], None]] = {
    "training": draw_training,
    "networks": draw_networks,
    "regimes": draw_regimes,
    "front": draw_search,
    "predicted": draw_predicted,
    "stages": draw_stages,
    "architecture": draw_architecture,
    "confusion": draw_confusion,
}
"""What draws each kind of picture."""
SUFFIXES = (".png", ".svg")
"""The suffixes of files that pictures are written to."""
