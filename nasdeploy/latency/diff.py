"""What two latency tables disagree about: single entries, whole networks, the order of networks, their conditions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nasdeploy.core.costs import Floats
from nasdeploy.core.randomness import generator
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.protocol import Timing
from nasdeploy.latency.table import LatencyTable

RANKED = 1000
"""Architectures that are drawn for comparing the order."""


@dataclass(frozen=True)
class Ratios:
    """Undisturbed seconds of the second by those of the first measurement: percentiles of `n` that both have."""

    n: int
    median: float
    p5: float
    p95: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> "Ratios | None":
        """None if there are none."""
        if not ratios:
            return None
        p5, median, p95 = (float(value) for value in np.percentile(ratios, [5, 50, 95]))
        return cls(len(ratios), median, p5, p95)


@dataclass(frozen=True)
class Difference:
    """Of a second table from a first one."""

    conditions: list[str]
    """One line for each condition that differs."""
    entries: Ratios | None
    networks: Ratios | None
    only_first: list[str]
    only_second: list[str]
    most_changed: dict[str, float]
    """Ratios of the entries that differ most, by key."""
    kendall: float | None
    """Rank correlation of predictions for networks drawn from the space; None if the tables are of different spaces."""
    prediction: Ratios | None
    """Of the same predictions."""


_SHOWN = 5


def difference(first: LatencyTable, second: LatencyTable, space: SearchSpace | None) -> Difference:
    """Raises `UserError` if a table lacks blocks of `space`; None leaves out what needs predictions."""
    entries = ratios(first.entries, second.entries)
    most = sorted(entries, key=lambda key: -abs(np.log(entries[key])))
    networks = [{str(n.arch): n.timing for n in table.networks} for table in (first, second)]
    predicted = None if space is None else [_predictions(table, space) for table in (first, second)]
    return Difference(
        conditions=first.conditions.changes(second.conditions),
        entries=Ratios.of(list(entries.values())),
        networks=Ratios.of(list(ratios(*networks).values())),
        only_first=[key for key in first.entries if key not in second.entries],
        only_second=[key for key in second.entries if key not in first.entries],
        most_changed={key: entries[key] for key in most[:_SHOWN]},
        kendall=None if predicted is None else _kendall(*predicted),
        prediction=None if predicted is None else Ratios.of((predicted[1] / predicted[0]).tolist()),
    )


def ratios(first: Mapping[str, Timing], second: Mapping[str, Timing]) -> dict[str, float]:
    """Undisturbed seconds of the second by those of the first, by key, of what both have."""
    return {key: second[key].undisturbed / timing.undisturbed for key, timing in first.items() if key in second}


def _predictions(table: LatencyTable, space: SearchSpace) -> Floats:
    codes = space.sample_codes(RANKED, generator(0, "networks that two tables rank"))
    return table.latencies(space)(codes)


def _kendall(first: Floats, second: Floats) -> float:
    from scipy.stats import kendalltau

    return float(kendalltau(first, second).statistic)
