"""How long a measurement will take, from a few blocks that are timed beforehand, and what fits into a given time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter

import numpy as np

from nasdeploy.core.costs import Floats
from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import Block
from nasdeploy.core.progress import duration
from nasdeploy.core.settings import parse
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.calibration import blocks_by_macs, evenly
from nasdeploy.latency.measure import REFERENCE_EVERY
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds, Timing
from nasdeploy.latency.table import Conditions
from nasdeploy.store.files import read_json_lines


@dataclass(frozen=True)
class TimeBudget:
    """The time that a measurement may take: seconds from a moment of `perf_counter` on, by default from now on."""

    seconds: float
    started: float = field(default_factory=perf_counter)


SAMPLED = 8
"""The number of blocks that are timed beforehand."""


def trial_protocol(protocol: MeasurementProtocol) -> MeasurementProtocol:
    """Return the quickest look at a block that still tells how long it takes."""
    return replace(protocol, blocks=Rounds(SAMPLED, 1), warmup=2, discarded=0, kept=1, shortest_group_s=0)


def sampled_blocks(space: SearchSpace) -> dict[str, Block]:
    """Return blocks spread over the range of MACs, the cheapest and the dearest included."""
    blocks = blocks_by_macs(space)
    return {blocks[index].key: blocks[index] for index in evenly(len(blocks), SAMPLED)}


@dataclass(frozen=True)
class Pace:
    """Seconds that a device needs: to make and open a block, and for a call, by the block's MACs."""

    opening: float
    call: float
    per_mac: float

    @classmethod
    def of(
        cls, blocks: Mapping[str, Block], timings: Mapping[str, Timing], elapsed: float, protocol: MeasurementProtocol
    ) -> "Pace":
        """Estimate the pace from a trial of `blocks` by `protocol` that took `elapsed` seconds in all."""
        from scipy.optimize import nnls

        seconds = np.array([timings[key].median for key in blocks])
        macs = np.array([float(block.macs) for block in blocks.values()])
        # Relative residuals; in units of the largest block, so that the columns are of one size.
        columns = np.stack([np.ones(len(macs)), macs / max(macs.max(), 1.0)], axis=1) / seconds[:, None]
        (call, per_largest), _ = nnls(columns, np.ones(len(macs)))
        measuring = sum(protocol.running_s(each, protocol.blocks.visits) for each in seconds)
        opening = max(elapsed - float(measuring), 0.0) / len(blocks)
        return cls(opening, float(call), float(per_largest) / max(macs.max(), 1.0))

    def of_blocks(self, blocks: Sequence[Block], protocol: MeasurementProtocol) -> float:
        """Return the seconds for measuring `blocks` one by one, references included."""
        seconds = np.array([self.call + self.per_mac * block.macs for block in blocks])
        return self._measuring(seconds, self.opening, protocol.blocks, protocol)

    def of_networks(self, space: SearchSpace, number: int, protocol: MeasurementProtocol) -> float:
        """Return the seconds for measuring so many whole networks, spread over the range at equal ratios."""
        plans = [space.plan(arch) for arch in (space.smallest(), space.largest())]
        fastest, slowest = (plan.total(lambda block: self.call + self.per_mac * block.macs) for plan in plans)
        opening = self.opening * sum(len(plan.steps) for plan in plans) / 2
        return self._measuring(np.geomspace(fastest, slowest, number), opening, protocol.networks, protocol)

    def _measuring(self, seconds: Floats, opening: float, rounds: Rounds, p: MeasurementProtocol) -> float:
        measuring = float(sum(p.running_s(each, rounds.visits) for each in seconds))
        references = 1 / max(rounds.group - 1, 1)
        shortest = p.shortest_group_s * len(seconds) * references
        idle = rounds.idle_s * rounds.visits * p.kept * len(seconds)
        return max(measuring * (1 + references + 1 / REFERENCE_EVERY) + idle, shortest) + opening * len(seconds) * (
            1 + references
        )


def total(pace: Pace, space: SearchSpace, protocol: MeasurementProtocol) -> float:
    """Return the seconds for a whole table."""
    number = protocol.calibration_networks + protocol.held_out_networks
    blocks = list(space.distinct_blocks().values())
    return pace.of_blocks(blocks, protocol) + pace.of_networks(space, number, protocol)


def within(
    budget: float, pace: Pace, space: SearchSpace, protocol: MeasurementProtocol, spent: float = 0.0
) -> MeasurementProtocol:
    """Return the most thorough form of `protocol` that takes at most what `spent` seconds leave of `budget` seconds.

    Every block is measured in any case, since a table that lacks one is of no use; then visits are given up first,
    because a median needs few runs, and whole networks last, because the table's error is theirs. Raises `UserError`
    if even the least takes longer.
    """
    least = protocol
    for least in _forms(protocol):
        if spent + total(pace, space, least) <= budget:
            return least
    needed = spent + total(pace, space, least)
    raise UserError(
        f"`budget_min={budget / 60:g}` is too short: the {len(space.distinct_blocks())} blocks of space {space.name} "
        f"and {least.calibration_networks + least.held_out_networks} whole networks take about {duration(needed)}; "
        f"give at least `budget_min={np.ceil(needed / 6 * 1.1) / 10:g}`"
    )


def with_networks_within(
    budget: float, pace: Pace, space: SearchSpace, protocol: MeasurementProtocol, slower: float
) -> MeasurementProtocol:
    """Return the form of `protocol`, after its blocks, whose networks take at most `budget` seconds; the least if none.

    `slower`: how many times as long as by `pace` the blocks took.
    """
    found = protocol
    for form in _forms(protocol):
        number = form.calibration_networks + form.held_out_networks
        found = replace(form, blocks=protocol.blocks)
        if slower * pace.of_networks(space, number, form) <= budget:
            break
    return found


_SHARES_OF_VISITS = (1.0, 0.8, 0.6, 0.4)
_SHARES_OF_NETWORKS = (0.75, 0.5, 0.375, 0.25)
_LEAST_SHARE_OF_VISITS = 0.1


def _forms(protocol: MeasurementProtocol) -> Iterator[MeasurementProtocol]:
    for share in _SHARES_OF_VISITS:
        yield _shortened(protocol, share, 1.0)
    for share in _SHARES_OF_NETWORKS:
        yield _shortened(protocol, _SHARES_OF_VISITS[-1], share)
    yield _shortened(protocol, _LEAST_SHARE_OF_VISITS, _SHARES_OF_NETWORKS[-1])


def _shortened(protocol: MeasurementProtocol, visits: float, networks: float) -> MeasurementProtocol:
    return replace(
        protocol,
        blocks=replace(protocol.blocks, visits=_part(protocol.blocks.visits, visits)),
        networks=replace(protocol.networks, visits=_part(protocol.networks.visits, visits)),
        shortest_group_s=visits * protocol.shortest_group_s,
        calibration_networks=_part(protocol.calibration_networks, networks),
        held_out_networks=_part(protocol.held_out_networks, networks),
    )


def _part(whole: int, share: float) -> int:
    return min(whole, max(1, round(whole * share)))


def begun_with(journal: Path) -> MeasurementProtocol | None:
    """Read the protocol of a measurement that was stopped; None if there is none, or its journal is damaged."""
    try:
        lines = read_json_lines(journal) if journal.exists() else []
        return parse(Conditions, lines[0]["conditions"], str(journal)).protocol if lines else None
    except (UserError, KeyError, TypeError):
        return None
