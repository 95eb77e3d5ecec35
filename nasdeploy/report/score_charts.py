"""Charts of scores: those of training, epoch by epoch, and those of the deliverable on test images, class by class."""

from collections import Counter
from collections.abc import Iterator, Mapping

from nasdeploy.core.score import Metric
from nasdeploy.report.artefacts import ConfusedPair, PredictionReport
from nasdeploy.report.chart import Chart, Json, axis, layout, marker, number, plain
from nasdeploy.report.training import Column, PhaseSpan, ScoreCurve, TrainingCurves

_RANDOM = "random"
_STYLES: Mapping[str, tuple[str, str, str]] = {
    "largest": ("@text", "circle", "solid"),
    "smallest": ("@second", "square", "dash"),
    _RANDOM: ("@grey", "diamond", "dot"),
    "alone": ("@accent", "circle", "solid"),
}
"""Colour, marker and dash of a line by the role of its network."""
_OTHER = ("@third", "triangle-up", "dashdot")


def training_charts(curves: TrainingCurves, metric: Metric) -> list[Chart]:
    """Return the charts of scores and of losses, of what there are values for."""
    charts = []
    if any(curve.values for curve in curves.scores.values()):
        charts.append(_scores(curves, metric))
    if curves.losses:
        charts.append(_losses(curves))
    return charts


def _scores(curves: TrainingCurves, metric: Metric) -> Chart:
    known = [place for place, _ in enumerate(curves.epochs) if _any_at(curves.scores, place)]
    samples = "" if curves.samples is None else f" on {curves.samples} {metric.samples}"
    return Chart(
        title=f"{metric.name} by epoch: {curves.title}",
        note=f"on held-out {metric.samples}; bars are one standard error",
        text=f"Lines of {metric.heading} by epoch{samples}. " + _last_scores(curves, metric),
        traces=tuple(_score_trace(name, curve, curves.epochs, metric) for name, curve in curves.scores.items()),
        layout=_layout(curves, f"{metric.heading}{samples}"),
        columns=("epoch", "phase", *curves.scores),
        rows=tuple(
            (
                str(curves.epochs[place]),
                _phase_of(curves.phases, curves.epochs[place]),
                *(_with_error(curve, place, metric) for curve in curves.scores.values()),
            )
            for place in known
        ),
    )


def _score_trace(name: str, curve: ScoreCurve, epochs: tuple[int, ...], metric: Metric) -> Json:
    places = [place for place, value in enumerate(curve.values) if value is not None]
    values = [metric.scale * (curve.values[place] or 0.0) for place in places]
    shown = f"%{{y:.{metric.decimals}f}} {plain(metric.unit)}"
    return {
        **_line(name),
        "x": [epochs[place] for place in places],
        "y": values,
        "error_y": {
            "array": [metric.scale * (curve.errors[place] or 0.0) for place in places],
            "thickness": 1,
            "width": 2,
        },
        "mode": "lines+markers",
        "hovertemplate": f"%{{fullData.name}}, epoch %{{x}}<br>{shown}<extra></extra>",
    }


def _losses(curves: TrainingCurves) -> Chart:
    told = "; ".join(f"{role} {number(_last(column))}" for role, column in curves.losses.items())
    return Chart(
        title=f"training loss by epoch: {curves.title}",
        note="mean of each epoch, by the role of the network in a step",
        text=f"Lines of the training loss by epoch. At the end: {told}.",
        traces=tuple(_loss_trace(role, column, curves.epochs) for role, column in curves.losses.items()),
        layout=_layout(curves, "loss"),
        columns=("epoch", "phase", *curves.losses, "learning rate", "samples/s"),
        rows=tuple(
            (
                str(epoch),
                _phase_of(curves.phases, epoch),
                *(number(column[place]) for column in curves.losses.values()),
                number(curves.learning_rate[place], 3),
                number(curves.samples_per_s[place]),
            )
            for place, epoch in enumerate(curves.epochs)
        ),
    )


def _loss_trace(role: str, column: Column, epochs: tuple[int, ...]) -> Json:
    return {
        **_line(role),
        "x": list(epochs),
        "y": list(column),
        "mode": "lines+markers" if len(epochs) == 1 else "lines",
        "hovertemplate": "%{fullData.name}, epoch %{x}<br>loss %{y:.4g}<extra></extra>",
    }


def _line(name: str) -> Json:
    colour, symbol, dash = _STYLES.get(name.split("_")[0], _OTHER)
    width = 1 if colour == "@grey" else 1.8
    return {
        "type": "scatter",
        "name": plain(name.replace("_", " ")),
        "line": {"color": colour, "dash": dash, "width": width},
        "marker": marker(colour, symbol),
    }


def _layout(curves: TrainingCurves, title: str) -> Json:
    """Return a layout with a line and a name where each phase begins."""
    begun = [span for span in curves.phases if span.name and span.first is not None]
    starts = [(span.first or 1) - 0.5 for span in begun]
    return layout(
        axis("epoch", range=[0.5, max(curves.epochs[-1], 2) + 0.5], dtick=None if len(curves.epochs) > 12 else 1),
        axis(title),
        shapes=[
            {
                "type": "line",
                "x0": x,
                "x1": x,
                "yref": "paper",
                "y0": 0,
                "y1": 1,
                "line": {"color": "@faint", "width": 1, "dash": "dot"},
            }
            for x in starts[1:]
        ],
        annotations=[
            {
                "x": x,
                "y": 0,
                "yref": "paper",
                "xanchor": "left",
                "yanchor": "bottom",
                "showarrow": False,
                "text": plain(span.name),
                "font": {"color": "@muted", "size": 11},
            }
            for x, span in zip(starts, begun, strict=True)
        ],
    )


def _any_at(scores: Mapping[str, ScoreCurve], place: int) -> bool:
    return any(curve.values[place] is not None for curve in scores.values())


def _phase_of(phases: tuple[PhaseSpan, ...], epoch: int) -> str:
    found = (span.name for span in phases if span.first is not None and span.first <= epoch <= (span.last or epoch))
    return next(found, "")


def _with_error(curve: ScoreCurve, place: int, metric: Metric) -> str:
    value = curve.values[place]
    return "-" if value is None else metric.with_error(value, curve.errors[place] or 0.0)


def _last_scores(curves: TrainingCurves, metric: Metric) -> str:
    return "At the end: " + "; ".join(f"{name} {metric.text(value)}" for name, value in _lasts(curves.scores)) + "."


def _lasts(scores: Mapping[str, ScoreCurve]) -> Iterator[tuple[str, float]]:
    for name, curve in scores.items():
        value = _last(curve.values)
        if value is not None:
            yield name, value


def _last(column: Column) -> float | None:
    return next((value for value in reversed(column) if value is not None), None)


SHOWN = 40
"""The most classes of a matrix that can be read; of more, those are shown that take part in most mistakes."""
LISTED = 100
"""The most mistakes in the chart's table."""


def confusion_chart(found: PredictionReport) -> Chart:
    """Return the chart of the matrix: rows are the classes that images have, columns those that they get."""
    shown = _shown(found)
    place_of = {label: place for place, label in enumerate(shown)}
    matrix = [[0] * len(shown) for _ in shown]
    for pair in found.confusion:
        if pair.truth in place_of and pair.predicted in place_of:
            matrix[place_of[pair.truth]][place_of[pair.predicted]] = pair.images
    names = [plain(found.labels[label]) for label in shown]
    mistakes = sorted((pair for pair in found.confusion if pair.truth != pair.predicted), key=lambda pair: -pair.images)
    wrong = found.images - found.correct
    few = (
        ""
        if len(shown) == len(found.labels)
        else f"; the {len(shown)} classes of {len(found.labels)} with most mistakes"
    )
    return Chart(
        title="confusion matrix",
        note=f"rows: the class that images have; columns: the class that they get{few}",
        text=f"{found.correct} of {found.images} test images get their class, {wrong} another."
        + _worst(found, mistakes),
        traces=(
            {
                "type": "heatmap",
                "x": list(range(len(shown))),
                "y": list(range(len(shown))),
                # Few mistakes among many right ones are to be seen: the shade goes by the root.
                "z": [[count**0.5 for count in row] for row in matrix],
                "text": [[str(count) if count else "" for count in row] for row in matrix],
                "texttemplate": "%{text}" if len(shown) <= 20 else "",
                "customdata": [
                    [f"{row}: {count} get {column}" for column, count in zip(names, counts, strict=True)]
                    for row, counts in zip(names, matrix, strict=True)
                ],
                "hovertemplate": "%{customdata}<extra></extra>",
                "colorscale": [[0, "@surface"], [1, "@accent"]],
                "showscale": False,
                "xgap": 1,
                "ygap": 1,
            },
        ),
        layout=layout(
            axis("gets", tickvals=list(range(len(shown))), ticktext=names, showgrid=False),
            axis("has", tickvals=list(range(len(shown))), ticktext=names, showgrid=False, autorange="reversed"),
            margin={"l": 56, "r": 16, "t": 8, "b": 48},
        ),
        columns=("has", "gets", "images"),
        rows=tuple(
            (found.labels[pair.truth], found.labels[pair.predicted], str(pair.images)) for pair in mistakes[:LISTED]
        ),
    )


def _shown(found: PredictionReport) -> list[int]:
    """Return the classes to show, in their order."""
    if len(found.labels) <= SHOWN:
        return list(range(len(found.labels)))
    mistakes: Counter[int] = Counter()
    for pair in found.confusion:
        if pair.truth != pair.predicted:
            mistakes.update({pair.truth: pair.images, pair.predicted: pair.images})
    return sorted(label for label, _ in mistakes.most_common(SHOWN))


def _worst(found: PredictionReport, mistakes: list[ConfusedPair]) -> str:
    if not mistakes:
        return ""
    worst = mistakes[0]
    return f" Most often {found.labels[worst.truth]} gets {found.labels[worst.predicted]}: {worst.images} times."
