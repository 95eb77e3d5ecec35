"""Charts of networks: where the time goes, how well a latency table predicts it, and stages drawn side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from nasdeploy.report.architecture import DrawnBlock, DrawnNetwork, DrawnStage
from nasdeploy.report.chart import SERIES, Chart, Json, arch_line, arch_lines, axis, layout, marker, number, plain
from nasdeploy.report.latency import PredictedNetwork, TableReport

_ROLES = (
    ("held-out", "@accent", "circle"),
    ("search", "@second", "diamond"),
    ("calibration", "@faint", "square"),
)
"""What the table's networks were measured for, with colour and marker; what tells the error comes first."""


def table_chart(table: TableReport) -> Chart | None:
    """Return the chart of predicted against measured latencies with the error band; None without whole networks."""
    found = [one for one in table.networks if one.predicted_ms > 0]
    if not found:
        return None
    roles = [(role, colour, symbol) for role, colour, symbol in _ROLES if any(one.role == role for one in found)]
    low, high = (0.95 * min(one.predicted_ms for one in found), 1.05 * max(one.predicted_ms for one in found))
    # What was measured in a disturbed moment may be many times as long: its bars leave the chart.
    ends = [low, high, *(one.measured_ms for one in found)]
    span = [0.9 * min(ends), 1.1 * max(ends)]
    error = table.held_out
    told = (
        "" if error is None else f" The mean error of {error.n} held-out networks is {100 * error.mean_absolute:.1f} %."
    )
    return Chart(
        title="predicted against measured",
        note=f"whole networks; the band is one standard deviation, {100 * table.uncertainty:.1f} %; hollow: disturbed",
        text=f"Measured by predicted latency of {len(found)} networks in ms on {table.device}.{told}",
        traces=(
            *_band(low, high, table.uncertainty),
            *(
                _role(role, colour, symbol, [one for one in found if one.role == role])
                for role, colour, symbol in roles
            ),
        ),
        layout=layout(axis("predicted in ms", range=[low, high]), axis("measured in ms", range=span)),
        columns=(
            "network",
            "for",
            "predicted in ms",
            "measured in ms",
            "p10",
            "p90",
            "error in %",
            "disturbed by",
            "architecture",
        ),
        rows=tuple(_row(one) for one in found),
    )


def _band(low: float, high: float, uncertainty: float) -> list[Json]:
    edge = {"type": "scatter", "mode": "lines", "hoverinfo": "skip", "showlegend": False}
    ends = [low, high]
    return [
        {**edge, "x": ends, "y": [end * (1 - uncertainty) for end in ends], "line": {"width": 0}},
        {
            **edge,
            "x": ends,
            "y": [end * (1 + uncertainty) for end in ends],
            "line": {"width": 0},
            "fill": "tonexty",
            "fillcolor": "@soft",
        },
        {**edge, "x": ends, "y": ends, "line": {"color": "@grey", "width": 1, "dash": "dot"}},
    ]


def _role(role: str, colour: str, symbol: str, found: Sequence[PredictedNetwork]) -> Json:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain(role),
        "x": [one.predicted_ms for one in found],
        "y": [one.measured_ms for one in found],
        "error_y": {
            "array": [one.p90_ms - one.measured_ms for one in found],
            "arrayminus": [one.measured_ms - one.p10_ms for one in found],
            "symmetric": False,
            "thickness": 0.6,
            "width": 0,
        },
        "marker": marker(colour, symbol, 6)
        | {"symbol": [symbol + ("-open" if one.noise else "") for one in found], "line": {"width": 1, "color": colour}},
        "customdata": [f"{arch_lines(one.arch)}{_disturbed(one)}" for one in found],
        "hovertemplate": "predicted %{x:.4g} ms, measured %{y:.4g} ms<br>%{customdata}<extra>%{fullData.name}</extra>",
    }


def _disturbed(one: PredictedNetwork) -> str:
    return f"<br>disturbed: {plain(one.noise)}" if one.noise else ""


def _row(one: PredictedNetwork) -> tuple[str, ...]:
    return (
        one.digest or "-",
        one.role,
        number(one.predicted_ms),
        number(one.measured_ms),
        number(one.p10_ms),
        number(one.p90_ms),
        f"{100 * (one.predicted_ms / one.measured_ms - 1):+.1f}" if one.measured_ms > 0 else "-",
        one.noise or "-",
        arch_line(one.arch),
    )


def stages_chart(networks: Sequence[DrawnNetwork], device: str) -> Chart | None:
    """Return the chart of where the predicted time goes, stage by stage, of each network; None without latencies."""
    known = [one for one in networks if device in one.predicted_ms]
    if not known:
        return None
    names = list(dict.fromkeys(stage.name for one in known for stage in one.stages))
    times = {one.role: {stage.name: stage.latency_ms.get(device, 0.0) for stage in one.stages} for one in known}
    return Chart(
        title="where the time goes",
        note=f"predicted latency of the blocks of each stage on {device}",
        text=" ".join(_longest(one, device) for one in known),
        traces=tuple(
            {
                "type": "bar",
                "orientation": "h",
                "name": plain(name),
                "y": [one.role for one in known],
                "x": [times[one.role].get(name, 0.0) for one in known],
                "marker": _fill(place),
                "hovertemplate": "%{y}: %{fullData.name}<br>%{x:.4g} ms<extra></extra>",
            }
            for place, name in enumerate(names)
        ),
        layout=layout(axis("latency in ms"), axis("", autorange="reversed"), barmode="stack"),
        columns=("stage", *(f"{one.role} in ms" for one in known), *(f"{one.role} in %" for one in known)),
        rows=tuple(
            (
                name,
                *(number(times[one.role].get(name)) for one in known),
                *(_share(one, name, device) for one in known),
            )
            for name in names
        ),
    )


def _fill(place: int) -> Json:
    """Return the marker of a stage: a colour, hatched where the colours begin again."""
    pattern = {"shape": "/", "fgcolor": "@surface", "size": 6} if place >= len(SERIES) else {"shape": ""}
    return {"color": SERIES[place % len(SERIES)], "pattern": pattern, "line": {"width": 1, "color": "@surface"}}


def _share(network: DrawnNetwork, name: str, device: str) -> str:
    return next((f"{100 * stage.share[device]:.1f}" for stage in network.stages if stage.name == name), "-")


def _longest(network: DrawnNetwork, device: str) -> str:
    stage = max(network.stages, key=lambda one: one.latency_ms[device])
    return (
        f"The {network.role} network takes {number(network.predicted_ms[device])} ms, "
        f"most of it in {stage.name} ({100 * stage.share[device]:.0f} %)."
    )


@dataclass(frozen=True)
class BlockBar:
    """A block as a bar: how long it is, and how dark."""

    width: float
    """The length in per cent of the drawing's width: the root of the channels that the block gives."""
    middle: float | None
    """The length of the outline in per cent: the root of the block's middle channels; None for a block without."""
    kernel: int
    """The kernel size: 1, 3, 5 or 7, which is also that of larger ones."""


@dataclass(frozen=True)
class StageCell:
    """One stage of one network."""

    bars: tuple[BlockBar, ...]
    texts: tuple[str, ...]
    """What the bars show, in words: channels, blocks, kernels, expansions, side of the feature map."""
    share: float | None
    """The part of the blocks' latency in per cent; None without a latency table."""


@dataclass(frozen=True)
class DrawnRow:
    """A stage of all networks."""

    name: str
    cells: tuple[StageCell | None, ...]
    """The stage in each network; None where a network does not have it."""


def stage_rows(networks: Sequence[DrawnNetwork], device: str | None) -> list[DrawnRow]:
    """Return the rows of a drawing, from input to output, with latencies on `device`."""
    widest = max((_widest(block) for one in networks for stage in one.stages for block in stage.blocks), default=1)
    deepest = max(networks, key=lambda one: len(one.stages), default=None)
    names = dict.fromkeys(stage.name for one in ([deepest] if deepest else []) for stage in one.stages)
    names |= dict.fromkeys(stage.name for one in networks for stage in one.stages)
    found = [{stage.name: stage for stage in one.stages} for one in networks]
    return [
        DrawnRow(name, tuple(_cell(stages[name], device, widest) if name in stages else None for stages in found))
        for name in names
    ]


def _widest(block: DrawnBlock) -> int:
    return max(block.out_channels or 1, _middle(block) or 1)


def _middle(block: DrawnBlock) -> int | None:
    """Return the middle channels of a block; None for a block without."""
    if block.expansion is None or block.in_channels is None:
        return None
    return round(block.expansion * block.in_channels)


def _cell(stage: DrawnStage, device: str | None, widest: int) -> StageCell:
    return StageCell(
        bars=tuple(_bar(block, widest) for block in stage.blocks),
        texts=tuple(_texts(stage)),
        share=None if device is None or device not in stage.share else 100 * stage.share[device],
    )


def _bar(block: DrawnBlock, widest: int) -> BlockBar:
    middle = _middle(block)
    return BlockBar(
        width=_length(block.out_channels or 1, widest),
        middle=None if middle is None else _length(middle, widest),
        kernel=min(block.kernel_size or 1, 7),
    )


def _length(channels: int, widest: int) -> float:
    # Channels grow fiftyfold from input to output: without the root the first stages would not be seen.
    return round(100 * sqrt(channels / widest), 1)


def _texts(stage: DrawnStage) -> list[str]:
    side = stage.blocks[-1].side if stage.blocks else None
    return [
        text
        for text in (
            "" if stage.width is None else f"{stage.width} {'outputs' if side is None else 'channels'}",
            f"{stage.depth} block{'s' if stage.depth > 1 else ''}",
            _several("kernel", [str(size) for size in stage.kernel_sizes]),
            _several("expansion", [f"{ratio:.3g}" for ratio in stage.expansions]),
            "" if side is None else f"{side} px",
        )
        if text
    ]


def _several(name: str, values: Sequence[str]) -> str:
    """Return values in their order, once if they are all the same."""
    return f"{name} {' '.join(values if len(set(values)) > 1 else values[:1])}" if values else ""
