"""Charts of sub-networks: what they score by MACs and by latency, and what a search found of them."""

from collections import Counter
from collections.abc import Mapping, Sequence

from nasdeploy.core.score import Metric
from nasdeploy.report.chart import (
    SERIES,
    Chart,
    Json,
    arch_line,
    arch_lines,
    axis,
    layout,
    marker,
    number,
    plain,
)
from nasdeploy.report.networks import BudgetBound, FrontPoint, FrontReport, ScoredNetwork, SubNetworks

DRAWN = 1000
"""The most networks that a chart draws as points: each brings its architecture, and a browser draws each by itself."""
LISTED = 100
"""The most networks in a chart's table."""


def macs_chart(found: SubNetworks, metric: Metric, chosen: str | None) -> Chart:
    """Return the chart of scored sub-networks by their MACs, with the boxes of the regimes where there are any."""
    return _scatter(found.networks, [1e-6 * one.macs for one in found.networks], metric, chosen, ("MACs", "M"))


def regimes_chart(found: SubNetworks, metric: Metric) -> Chart | None:
    """Return the chart of the scores between numbers of MACs that an evaluation found; None without one."""
    shown = [(f"{1e-6 * one.low_macs:.3g} to {1e-6 * one.high_macs:.3g}", one.box) for one in found.regimes if one.box]
    if not shown:
        return None
    parts = ("minimum", "first_quartile", "median", "third_quartile", "maximum")
    values = {part: [metric.scale * getattr(box, part) for _, box in shown] for part in parts}
    return Chart(
        title=f"{metric.name} of networks at random",
        note="minimum, quartiles and maximum between two numbers of MACs",
        text=f"Boxes of {metric.heading} for {len(shown)} ranges of MACs; the table has the numbers.",
        traces=(
            {
                "type": "box",
                "x": [name for name, _ in shown],
                "lowerfence": values["minimum"],
                "q1": values["first_quartile"],
                "median": values["median"],
                "q3": values["third_quartile"],
                "upperfence": values["maximum"],
                "marker": {"color": "@accent"},
                "line": {"width": 1.2},
                "showlegend": False,
            },
        ),
        layout=layout(axis("MACs in M", type="category"), axis(metric.heading)),
        columns=("MACs in M", "networks", "minimum", "first quartile", "median", "third quartile", "maximum"),
        rows=tuple(
            (name, str(box.count), *(metric.number(getattr(box, part)) for part in parts)) for name, box in shown
        ),
    )


def latency_chart(found: SubNetworks, metric: Metric, device: str, chosen: str | None) -> Chart | None:
    """Return the chart of scored sub-networks by their predicted latency on a device; None if none is known."""
    known = [one for one in found.networks if device in one.predicted_ms]
    costs = [one.predicted_ms[device] for one in known]
    return _scatter(known, costs, metric, chosen, (f"predicted latency on {device}", "ms")) if known else None


def _scatter(
    networks: Sequence[ScoredNetwork],
    costs: Sequence[float],
    metric: Metric,
    chosen: str | None,
    cost: tuple[str, str],
) -> Chart:
    heading, count = f"{cost[0]} in {cost[1]}", len(networks)
    by_cost = sorted(range(count), key=lambda place: costs[place])
    drawn = by_cost[:: -(-count // DRAWN)]
    best = sorted(range(count), key=lambda place: metric.gain(networks[place].value), reverse=True)
    marked = [place for place in range(count) if networks[place].digest == chosen]
    some = "" if len(drawn) == count else f", {len(drawn)} of them drawn"
    first, last, top = costs[by_cost[0]], costs[by_cost[-1]], networks[best[0]]

    def points(name: str, places: Sequence[int], mark: Json) -> Json:
        return {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": [costs[place] for place in places],
            "y": [metric.scale * networks[place].value for place in places],
            "marker": mark,
            "customdata": [arch_lines(networks[place].arch) for place in places],
            "hovertemplate": _hover(metric, cost[1]),
        }

    return Chart(
        title=f"{metric.name} by {cost[0]}",
        note=f"{count} sub-networks{some}, with weights of the supernet, on held-out {metric.samples}",
        text=f"Points of {metric.heading} by {heading} for {count} sub-networks between {number(first)} and "
        f"{number(last)} {cost[1]}. The best has {metric.text(top.value)} at {number(costs[best[0]])} {cost[1]}.",
        traces=(
            points("sub-networks", drawn, marker("@grey", size=5, opacity=0.6)),
            *([points("chosen", marked, marker("@accent", "star", 15))] if marked else []),
        ),
        layout=layout(axis(heading), axis(metric.heading)),
        columns=("network", heading, metric.heading, "architecture"),
        rows=tuple(
            (
                networks[place].digest,
                number(costs[place]),
                metric.with_error(networks[place].value, networks[place].error),
                arch_line(networks[place].arch),
            )
            for place in best[:LISTED]
        ),
    )


def _hover(metric: Metric, unit: str) -> str:
    shown = f"%{{y:.{metric.decimals}f}} {plain(metric.unit)}".rstrip()
    return f"<b>{shown}</b> at %{{x:.4g}} {plain(unit)}<br>%{{customdata}}<extra>%{{fullData.name}}</extra>"


def front_chart(search: FrontReport, metric: Metric, found: SubNetworks | None) -> Chart:
    """Return the chart of a search: what was scored, the front, finalists as measured, budget and choice."""
    device = search.devices[0] if search.is_latency else None
    finalists = [one for one in search.finalists if device is not None and device in one.measured_ms]
    scored = [one for one in found.networks if device in one.predicted_ms] if found and device is not None else []
    winner = search.winner
    costs = [
        *(one.cost for one in search.front if one.cost is not None),
        *(one.measured_ms[device].median for one in finalists if device is not None),
        *(one.predicted_ms[device] for one in scored if device is not None),
    ]
    return Chart(
        title="Pareto front",
        note=_front_note(search, metric),
        text=_front_text(search, metric),
        traces=(
            *([_scored(scored, device, metric)] if device is not None and scored else []),
            _line(search.front, metric, search.is_latency),
            *([_measured(finalists, device, metric)] if device is not None and finalists else []),
            _chosen(winner, device, metric),
        ),
        layout=layout(
            axis(search.axis, range=_range(costs, search.axis_bound)),
            axis(metric.heading),
            **_budget(search.axis_bound),
        ),
        columns=("network", "what", search.axis, "measured in ms", metric.heading, "architecture"),
        rows=tuple(_row(one, device, metric) for one in _unique([winner, *search.finalists, *search.front])),
    )


def _front_note(search: FrontReport, metric: Metric) -> str:
    scores = f"scores of the search on {search.samples} held-out {metric.samples}, bars are one standard error"
    measured = "; finalists as measured, bars are p10 and p90"
    return scores + (measured if search.is_latency else "")


def _range(costs: Sequence[float], bound: BudgetBound | None) -> list[float] | None:
    """Return the range of an axis that shows all costs and bounds; the bars of a disturbed timing may leave it."""
    sides = [side for side in (bound.low, bound.high) if side is not None] if bound is not None else []
    ends = [*costs, *sides]
    if not ends:
        return None
    margin = 0.06 * (max(ends) - min(ends) or max(ends))
    return [min(ends) - margin, max(ends) + margin]


def _unique(points: Sequence[FrontPoint]) -> list[FrontPoint]:
    """Return the points without those of networks that came before, in their order."""
    found: dict[str, FrontPoint] = {}
    for one in points:
        found.setdefault(one.digest, one)
    return list(found.values())


def _row(one: FrontPoint, device: str | None, metric: Metric) -> tuple[str, ...]:
    measured = one.measured_ms.get(device) if device is not None else None
    what = "chosen" if one.chosen else "finalist" if measured is not None else "front"
    return (
        one.digest,
        f"{what}, the original" if one.original else what,
        number(one.cost),
        "-" if measured is None else number(measured.median),
        metric.with_error(one.value, one.error),
        arch_line(one.arch),
    )


def _trace(name: str, points: Sequence[FrontPoint], metric: Metric, costs: Sequence[float | None]) -> Json:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": list(costs),
        "y": [metric.scale * one.value for one in points],
        "customdata": [f"{plain(one.digest)}<br>{arch_lines(one.arch)}" for one in points],
        "hovertemplate": _hover(metric, ""),
    }


def _scored(scored: Sequence[ScoredNetwork], device: str, metric: Metric) -> Json:
    ordered = sorted(scored, key=lambda one: one.predicted_ms[device])[:: -(-len(scored) // DRAWN)]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "scored, predicted",
        "x": [one.predicted_ms[device] for one in ordered],
        "y": [metric.scale * one.value for one in ordered],
        "marker": marker("@faint", size=5, opacity=0.6),
        "customdata": [arch_lines(one.arch) for one in ordered],
        "hovertemplate": _hover(metric, "ms"),
    }


def _line(front: Sequence[FrontPoint], metric: Metric, is_latency: bool) -> Json:
    known = [one for one in front if one.cost is not None]
    return {
        **_trace("front, predicted" if is_latency else "front", known, metric, [one.cost for one in known]),
        "mode": "lines+markers",
        "line": {"color": "@text", "width": 1.5},
        "marker": marker("@text", size=6),
        "error_x": _bars([one.uncertainty for one in known]),
        "error_y": _bars([metric.scale * one.error for one in known]),
    }


def _measured(finalists: Sequence[FrontPoint], device: str, metric: Metric) -> Json:
    timings = [one.measured_ms[device] for one in finalists]
    return {
        **_trace("finalists, measured", finalists, metric, [one.median for one in timings]),
        "marker": marker("@second", "diamond", 8),
        "error_x": {
            **_bars([(one.p90 or one.median) - one.median for one in timings]),
            "arrayminus": [one.median - (one.p10 or one.median) for one in timings],
            "symmetric": False,
        },
    }


def _bars(array: Sequence[float]) -> Json:
    return {"array": list(array), "thickness": 0.8, "width": 2}


def _chosen(winner: FrontPoint, device: str | None, metric: Metric) -> Json:
    measured = winner.measured_ms.get(device) if device is not None else None
    cost = winner.cost if measured is None else measured.median
    return {**_trace("chosen", [winner], metric, [cost]), "marker": marker("@accent", "star", 17)}


def _budget(bound: BudgetBound | None) -> Json:
    """Return the part of a layout that draws a bound's sides as lines."""
    sides = [side for side in (bound.low, bound.high) if side is not None] if bound is not None else []
    line = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "line": {"color": "@accent", "width": 1, "dash": "dash"}}
    name = {"yref": "paper", "y": 1, "yanchor": "top", "xanchor": "right", "textangle": -90, "showarrow": False}
    return {
        "shapes": [{**line, "x0": side, "x1": side} for side in sides],
        "annotations": [
            {**name, "x": side, "text": f"budget {number(side)}", "font": {"color": "@accent", "size": 11}}
            for side in sides
        ],
    }


def _front_text(search: FrontReport, metric: Metric) -> str:
    winner = search.winner
    where = "" if winner.cost is None else f" at {number(winner.cost)} {'ms as predicted' if search.is_latency else ''}"
    return (
        f"The Pareto front of {len(search.front)} networks and {len(search.finalists)} finalists: {metric.heading} by "
        f"{search.axis}. Chosen is {winner.digest} with {metric.text(winner.value)}{where}.".replace(" .", ".")
    )


def fronts_chart(searches: Mapping[str, tuple[FrontReport, Metric]]) -> Chart | None:
    """Return the fronts and choices of several runs in one chart, by the names of the runs.

    None unless two or more have the same axis and the same metric.
    """
    most = Counter(map(_axes, searches.values())).most_common(1)
    shown = {name: one for name, one in searches.items() if most and _axes(one) == most[0][0]}
    if len(shown) < 2:
        return None
    search, metric = next(iter(shown.values()))
    device = search.devices[0] if search.is_latency else None
    traces: list[Json] = []
    for colour, (name, (each, _)) in zip(_colours(len(shown)), shown.items(), strict=True):
        line = _line(each.front, metric, each.is_latency) | {"name": plain(name), "legendgroup": plain(name)}
        star = _chosen(each.winner, device, metric) | {"name": plain(name), "legendgroup": plain(name)}
        traces.append(line | {"line": {"color": colour, "width": 1.5}, "marker": marker(colour)})
        traces.append(star | {"marker": marker(colour, "star", 17), "showlegend": False})
    return Chart(
        title="Pareto fronts beside each other",
        note="fronts as predicted; stars are the chosen networks" + (", as measured" if search.is_latency else ""),
        text=" ".join(f"{name}: {_front_text(each, metric)}" for name, (each, _) in shown.items()),
        traces=tuple(traces),
        layout=layout(axis(search.axis), axis(metric.heading)),
        columns=("run", "network", "what", search.axis, "measured in ms", metric.heading, "architecture"),
        rows=tuple(
            (name, *_row(one, device, metric))
            for name, (each, _) in shown.items()
            for one in _unique([each.winner, *each.front])
        ),
    )


def _axes(one: tuple[FrontReport, Metric]) -> tuple[str, str]:
    return one[0].axis, one[1].heading


def _colours(count: int) -> list[str]:
    return [SERIES[place % len(SERIES)] for place in range(count)]
