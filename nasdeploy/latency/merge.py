"""Two measurements of one space under the same conditions, in one table."""

from collections.abc import Iterable, Mapping

from nasdeploy.core.errors import UserError
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.protocol import Timing
from nasdeploy.latency.table import LatencyTable, MeasuredNetwork, network_terms


def merge(first: LatencyTable, second: LatencyTable, space: SearchSpace) -> LatencyTable:
    """The entries and networks of both, calibrated anew.

    Of what both have, the quieter measurement is kept, else that of more runs, else the later one: percentiles of two
    measurements cannot be pooled. Raises `UserError` naming what differs if their conditions do, or blocks of a network
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
    """All keys, those of `first` in front; the better timing of each."""
    merged = dict(first)
    for key, timing in second.items():
        merged[key] = max(merged.get(key, timing), timing, key=_quality)
    return merged


def _merged_networks(networks: Iterable[MeasuredNetwork]) -> list[MeasuredNetwork]:
    merged: list[MeasuredNetwork] = []
    for network in networks:
        places = [place for place, known in enumerate(merged) if known.arch == network.arch]
        for place in places:
            merged[place] = max(merged[place], network, key=lambda either: _quality(either.timing))
        if not places:
            merged.append(network)
    return merged


def _quality(timing: Timing) -> tuple[bool, int, str]:
    return not timing.noisy, timing.n, timing.at
