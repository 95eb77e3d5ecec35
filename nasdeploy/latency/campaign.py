"""Measuring the many models of a table with a runner: into a journal, once more what was disturbed, drift corrected.

The journal lies beside the table that it will become, so that a killed measurement goes on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from pathlib import Path
from statistics import mean
from time import perf_counter, sleep
from typing import Literal

import numpy as np
from pydantic import Field

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress, duration
from nasdeploy.core.settings import Settings, parse
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.calibration import relative_errors
from nasdeploy.latency.protocol import (
    MeasurementProtocol,
    Rounds,
    Timing,
    corrected,
    disturbances,
    disturbed_by,
    drifted,
    flagged,
    quality,
    usual_reference,
)
from nasdeploy.latency.runners.runner import ModelMaker, Outcome, Refusal, Runner
from nasdeploy.latency.table import Conditions, LatencyTable, Role, network_terms, predicted
from nasdeploy.latency.time_budget import Pace
from nasdeploy.store.files import append_json_line, read_json_lines

Kind = Literal["blocks", "networks"]


class _JournalLine(Settings):
    conditions: Conditions | None = None
    blocks: dict[str, Outcome] = Field(default_factory=dict)
    networks: dict[str, Outcome] = Field(default_factory=dict)


class Journal:
    """A file of JSON lines: the conditions, then one line for each group of outcomes.

    `outcomes` has what was measured, or refused by the runtime, so far: blocks by key, networks by `Arch.text`.
    `discarded` says why an earlier journal at this path could not be continued; it is empty if there was none or it
    could.
    """

    def __init__(self, path: Path, conditions: Conditions) -> None:
        """Continue the journal at `path`, or start one; raises `UserError` if there is a damaged one."""
        self._path = path
        lines = _read(path)
        self.discarded = _changes(lines[0].conditions, conditions) if lines else []
        if self.discarded:
            lines = []
            path.unlink()
        if not lines:
            append_json_line(path, {"conditions": conditions.model_dump(mode="json")})
        self.outcomes: dict[Kind, dict[str, Outcome]] = {
            "blocks": {key: outcome for line in lines for key, outcome in line.blocks.items()},
            "networks": {key: outcome for line in lines for key, outcome in line.networks.items()},
        }

    def add(self, kind: Kind, outcomes: Mapping[str, Outcome]) -> None:
        """Keep the outcomes of a group."""
        append_json_line(self._path, {kind: {key: asdict(outcome) for key, outcome in outcomes.items()}})
        self.outcomes[kind].update(outcomes)

    def remove(self) -> None:
        """Delete the file: the table has everything."""
        self._path.unlink()


def _changes(before: Conditions | None, now: Conditions) -> list[str]:
    return ["it does not say what it is of"] if before is None else before.changes(now)


def _read(path: Path) -> list[_JournalLine]:
    try:
        return [parse(_JournalLine, line, f"{path}: line {n}") for n, line in enumerate(read_json_lines(path), start=1)]
    except UserError as error:
        raise UserError(f"{error}; or measure from the start with `restart=True`") from None


@dataclass(frozen=True)
class Campaign:
    """One measurement of a table, with whatever runner; all of it goes through a journal."""

    runner: Runner
    protocol: MeasurementProtocol
    journal: Journal
    progress: Progress
    reference: ModelMaker
    """Makes the reference graph, of which each group has one."""
    ends: float = inf
    """The time at which the time that the user gives is over, by `perf_counter`."""
    pause: Callable[[float], None] = sleep

    def announce(self, space: SearchSpace, pace: Pace) -> None:
        """Say how long what the journal lacks will take."""
        known = self.journal.outcomes
        blocks = [block for key, block in space.distinct_blocks().items() if key not in known["blocks"]]
        all_networks = self.protocol.calibration_networks + self.protocol.held_out_networks
        networks = max(all_networks - len(known["networks"]), 0)
        seconds = pace.of_blocks(blocks, self.protocol) + pace.of_networks(space, networks, self.protocol)
        self.progress.say(
            f"measuring {len(blocks)} blocks ({self.protocol.blocks.visits} visits each) and {networks} whole networks "
            f"({self.protocol.networks.visits} visits each) will take about {duration(seconds)}"
        )

    def timings(
        self, kind: Kind, models: Mapping[str, ModelMaker], rounds: Rounds, later_s: float = 0.0
    ) -> dict[str, Timing]:
        """Return the timings of all models; measured now is what the journal lacks, and again what was disturbed.

        Again as often as the protocol says. Where runs merely varied it is once, for what has no reference graph, and
        for whole networks, of which the faster timing is kept: as many as two minutes are enough for, those that varied
        most. Blocks have a reference graph that was as fast as usual, and are so many that what one of them got too
        slow evens out. And only as far as it leaves `later_s` seconds of the
        given time for what else is to be measured. Raises `UserError` if the runtime refuses some, after all others
        were measured.
        """
        known, above = self.journal.outcomes[kind], self.protocol.drift_above
        missing = [key for key in models if key not in known]
        start = perf_counter()
        self._measure(kind, models, missing, rounds)
        timings = all_measured(kind, {key: known[key] for key in models})
        # Of what the journal has from earlier nobody knows how long it took to open.
        each = (perf_counter() - start) / len(missing) if missing else self._running_s(timings, rounds)
        for attempt in range(self.protocol.retries):
            left = max(self.ends - later_s - perf_counter(), 0.0)
            if kind == "networks" and not attempt:
                again = self._worth_measuring_again(kind, _varying(timings, above), each, min(left, _VARYING_S))
            else:
                again = self._worth_measuring_again(kind, _drifting(timings) if attempt else timings, each, left)
            if not again:
                break
            self.pause(self.protocol.wait_s)
            self._measure(kind, models, again, rounds)
            timings = all_measured(kind, {key: known[key] for key in models})
        return flagged(timings, above)

    def _running_s(self, timings: Mapping[str, Timing], rounds: Rounds) -> float:
        """Return the seconds of a model's runs, on average."""
        return mean(self.protocol.running_s(timing.median, rounds.visits) for timing in timings.values())

    def _worth_measuring_again(self, kind: Kind, timings: Mapping[str, Timing], each: float, left: float) -> list[str]:
        """Return the most disturbed ones, as many as `left` seconds are enough for at `each` seconds.

        Say how many, and why.
        """
        found = disturbances(timings, self.protocol.drift_above)
        if not found:
            return []
        worst = sorted(found, key=lambda key: found[key], reverse=True)
        why = disturbed_by(timings, self.protocol.drift_above)
        again = worst if left >= each * len(worst) else worst[: int(left / each)]
        if again:
            some = "" if len(again) == len(worst) else f" of {len(worst)}"
            self.progress.say(f"measuring {len(again)}{some} {kind} again: {why}")
        else:
            self.progress.say(f"no time is left to measure {len(worst)} {kind} again, which are flagged: {why}")
        return again

    def _measure(self, kind: Kind, models: Mapping[str, ModelMaker], keys: Sequence[str], rounds: Rounds) -> None:
        """Measure these models, whatever the journal has of them, into the journal, unless it has a better timing."""
        wanted = {key: models[key] for key in keys}
        done = (len(models) - len(keys)) * rounds.visits
        name = f"measuring {len(models)} {kind}, visits"
        with self.progress.task(name, len(models) * rounds.visits, done) as task:
            measured = self.runner.measure(
                wanted, rounds, self.protocol, reference=self.reference, on_visits=task.advance
            )
            for outcomes in measured:
                kept = {key: found for key, found in outcomes.items() if self._better(kind, key, found)}
                if kept:
                    self.journal.add(kind, kept)

    def _better(self, kind: Kind, key: str, outcome: Outcome) -> bool:
        """Return whether an outcome is better than what the journal has of this model."""
        known = self.journal.outcomes[kind]
        before = known.get(key)
        if not isinstance(before, Timing) or not isinstance(outcome, Timing):
            return True
        usual = usual_reference(timing for timing in known.values() if isinstance(timing, Timing))
        now, then = (quality(timing, usual, self.protocol.drift_above) for timing in (outcome, before))
        return now >= then


_VARYING_S = 120.0
"""The seconds that measuring again what merely varied takes at most: slow networks took minutes already."""


def _drifting(timings: Mapping[str, Timing]) -> dict[str, Timing]:
    """Return `timings` as if runs never varied, so that other disturbances alone are seen."""
    return {key: replace(timing, noise="") if timing.noise == "spread" else timing for key, timing in timings.items()}


def _varying(timings: Mapping[str, Timing], above: float) -> dict[str, Timing]:
    """Return `timings` as if no reference graph told how fast the machine was while those ran that merely varied."""
    drifts = drifted(timings, above)
    return {
        key: replace(timing, reference=None) if timing.noise == "spread" and key not in drifts else timing
        for key, timing in timings.items()
    }


def all_measured(kind: Kind, outcomes: Mapping[str, Outcome]) -> dict[str, Timing]:
    """Return the timings if there are no refusals; raises `UserError` if there are, naming the first."""
    timings = {key: outcome for key, outcome in outcomes.items() if isinstance(outcome, Timing)}
    refused = {key: outcome for key, outcome in outcomes.items() if isinstance(outcome, Refusal)}
    if refused:
        key, refusal = next(iter(refused.items()))
        raise UserError(
            f"the device's runtime cannot run {len(refused)} of {len(outcomes)} {kind}, the first of them {key}: "
            f"{refusal.reason}; take them out of the space, or use another runtime"
        )
    return timings


# -- drift correction

POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""The powers of drift that are tried; 0 leaves timings as they are."""


def drift_corrected_table(
    space: SearchSpace,
    conditions: Conditions,
    created: str,
    entries: Mapping[str, Timing],
    networks: Mapping[Arch, Timing],
    roles: Mapping[Arch, Role],
    powers: Sequence[float] = POWERS,
) -> LatencyTable:
    """Return the table of blocks `entries` and whole `networks` with the power that predicts calibration networks best.

    On a shared machine a group of sessions is measured while everything takes a third longer, and the next one is not.
    Each timing is divided by a power of how much longer than usual the reference graph took meanwhile. By a power,
    because the reference graph is measured with noise itself, and because not every graph suffers alike from what slows
    the machine (regression dilution: Fuller, Measurement Error Models, 1987, section 1.1). Which one is told by the
    networks that the table is calibrated on, never by those held out; on a quiet machine all are the same.
    """
    usual = usual_reference([*entries.values(), *networks.values()])

    def table(power: float) -> LatencyTable:
        blocks = {key: corrected(timing, usual, power) for key, timing in entries.items()}
        measured = [
            network_terms(blocks, space, arch, role, corrected(networks[arch], usual, power))
            for arch, role in roles.items()
        ]
        return LatencyTable.fitted(conditions, created, blocks, measured, power)

    return min(map(table, powers[:1] if usual is None else powers), key=_calibration_error)


def _calibration_error(table: LatencyTable) -> float:
    """Return the mean absolute relative error on the networks that the table is calibrated on."""
    known = [network for network in table.networks if network.role == "calibration"]
    expected = [seconds / table.median_ratio for seconds in predicted(table.calibration, known)]
    return float(np.abs(relative_errors(expected, [network.timing.undisturbed for network in known])).mean())
