"""Two latency tables: what they disagree about, and one table of both."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nasdeploy.core.costs import Floats
from nasdeploy.core.errors import UserError
from nasdeploy.core.randomness import generator
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.protocol import Timing, quality
from nasdeploy.latency.table import LatencyTable, MeasuredNetwork, network_terms

RANKED = 1000
"""The number of architectures that are drawn for comparing the order."""


@dataclass(frozen=True)
class Ratios:
    """The undisturbed seconds of a second by those of a first measurement: percentiles of `n` that both have."""

    n: int
    median: float
    p5: float
    p95: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> "Ratios | None":
        """Return the percentiles of ratios; None if there are none."""
        if not ratios:
            return None
        p5, median, p95 = (float(value) for value in np.percentile(ratios, [5, 50, 95]))
        return cls(len(ratios), median, p5, p95)


@dataclass(frozen=True)
class Difference:
    """The differences of a second table from a first one."""

    conditions: list[str]
    """The conditions that differ, in one line each."""
    entries: Ratios | None
    networks: Ratios | None
    only_first: list[str]
    only_second: list[str]
    most_changed: dict[str, float]
    """The ratios of the entries that differ most, by key."""
    kendall: float | None
    """The rank correlation of predictions for networks drawn from the space; None if that is not the same."""
    prediction: Ratios | None
    """The ratios of these predictions."""


_SHOWN = 5


def difference(first: LatencyTable, second: LatencyTable, space: SearchSpace | None) -> Difference:
    """Compare two tables; without their `space`, what needs predictions is left out.

    Raises `UserError` if a table lacks blocks of it.
    """
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
    """Return the undisturbed seconds of the second by those of the first, by key, of what both have."""
    return {key: second[key].undisturbed / timing.undisturbed for key, timing in first.items() if key in second}


def _predictions(table: LatencyTable, space: SearchSpace) -> Floats:
    codes = space.sample_codes(RANKED, generator(0, "networks that two tables rank"))
    return table.latencies(space)(codes)


def _kendall(first: Floats, second: Floats) -> float:
    from scipy.stats import kendalltau

    return float(kendalltau(first, second).statistic)


# -- one table of both


def merge(first: LatencyTable, second: LatencyTable, space: SearchSpace) -> LatencyTable:
    """Return a table of the entries and networks of both, calibrated anew.

    Of what both have the better measurement is kept (`nasdeploy.latency.protocol`): percentiles of two measurements
    cannot be pooled. Raises `UserError` naming what differs if their conditions do, or blocks of a network
    that neither has.
    """
    differing = first.conditions.changes(second.conditions)
    if differing:
        raise UserError(
            f"the tables were not measured under the same conditions ({'; '.join(differing)}); merge such tables only"
        )
    for table in (first, second):
        table.require_space(space)
    entries = merged_entries(first.entries, second.entries)
    networks = [
        network_terms(entries, space, space.arch(network.arch), network.role, network.timing)
        for network in _merged_networks([*first.networks, *second.networks])
    ]
    steadied = max(first.steadied, second.steadied)
    return LatencyTable.fitted(first.conditions, max(first.created, second.created), entries, networks, steadied)


def merged_entries(first: Mapping[str, Timing], second: Mapping[str, Timing]) -> dict[str, Timing]:
    """Return the better timing of each key, those of `first` in front."""
    merged = dict(first)
    for key, timing in second.items():
        merged[key] = max(merged.get(key, timing), timing, key=quality)
    return merged


def _merged_networks(networks: Iterable[MeasuredNetwork]) -> list[MeasuredNetwork]:
    merged: dict[str, MeasuredNetwork] = {}
    for network in networks:
        key = json.dumps(network.arch, sort_keys=True)
        merged[key] = max(merged.get(key, network), network, key=lambda either: quality(either.timing))
    return list(merged.values())
