"""Box plots of sub-networks' accuracies by regime of MACs, supernets side by side (AlphaNet, Figures 9 and 10)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from nasdeploy.core.costs import Floats
from nasdeploy.store.files import replacing

_WIDTH = 0.8
"""The width of all boxes of a regime together; regimes are 1 apart."""


_SHORT = 30
"""Characters of labels of which three fit below the narrowest picture."""


@dataclass(frozen=True)
class Box:
    """The five numbers of a box plot, and of how many values they are."""

    count: int
    minimum: float
    first_quartile: float
    median: float
    third_quartile: float
    maximum: float


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
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120)


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
