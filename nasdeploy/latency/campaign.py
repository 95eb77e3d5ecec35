"""Measuring many models with a runner into a journal: what is missing, and once more what was disturbed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from time import perf_counter, sleep

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress, duration
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.drift import (
    disturbance,
    disturbances,
    disturbed_by,
    flagged,
    usual_reference,
    with_references,
)
from nasdeploy.latency.journal import Journal, Kind
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds, Timing
from nasdeploy.latency.runners.run_models import Outcome, Refusal
from nasdeploy.latency.runners.runner import ModelMaker, Runner
from nasdeploy.latency.time_budget import Pace


@dataclass(frozen=True)
class Campaign:
    """One measurement of a table, wherever it runs; all of it goes through a journal."""

    runner: Runner
    protocol: MeasurementProtocol
    journal: Journal
    progress: Progress
    reference: ModelMaker
    """Makes the reference graph, of which each group has one."""
    ends: float = inf
    """When the time that the user gives is over, by `perf_counter`."""
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
        """Timings of all; measured now is what the journal lacks, and again what was disturbed, as often as the
        protocol says, but once where runs varied and nothing else is wrong: what a table adds up are undisturbed runs,
        which are found among them. Where most were disturbed the machine will not be quieter soon, and none is.

        Again only as far as it leaves `later_s` seconds of the given time for what else is to be measured. Raises
        `UserError` if the runtime refuses some, after all others were measured.
        """
        known, above = self.journal.outcomes[kind], self.protocol.drift_above
        missing = [key for key in models if key not in known]
        start = perf_counter()
        self._measure(kind, models, missing, rounds)
        each = (perf_counter() - start) / len(missing) if missing else 0.0
        timings = all_measured(kind, {key: known[key] for key in models})
        for attempt in range(self.protocol.retries):
            again = self._worth_measuring_again(kind, _drifting(timings) if attempt else timings, each, later_s)
            if not again:
                break
            self.pause(self.protocol.wait_s)
            self._measure(kind, models, again, rounds)
            timings = all_measured(kind, {key: known[key] for key in models})
        return flagged(timings, above)

    def _worth_measuring_again(
        self, kind: Kind, timings: Mapping[str, Timing], each: float, later_s: float
    ) -> list[str]:
        """Those that were disturbed most, as many as there is time for at `each` seconds; says how many, and why."""
        found = disturbances(timings, self.protocol.drift_above)
        if not found:
            return []
        worst = sorted(found, key=lambda key: found[key], reverse=True)
        why = disturbed_by(timings, self.protocol.drift_above)
        if len(found) > len(timings) / 2:
            self.progress.say(f"the machine is not quiet: {why}; {len(worst)} {kind} are flagged")
            return []
        left = max(self.ends - later_s - perf_counter(), 0.0)
        again = worst if left >= each * len(worst) else worst[: int(left / each)]
        if again:
            some = "" if len(again) == len(worst) else f" of {len(worst)}"
            self.progress.say(f"measuring {len(again)}{some} {kind} again: {why}")
        else:
            self.progress.say(f"no time is left to measure {len(worst)} {kind} again, which are flagged: {why}")
        return again

    def _measure(self, kind: Kind, models: Mapping[str, ModelMaker], keys: Sequence[str], rounds: Rounds) -> None:
        """Measure these models, whatever the journal has of them, into the journal, unless it has a quieter timing."""
        wanted = with_references({key: models[key] for key in keys}, self.reference, rounds.group)
        done = (len(models) - len(keys)) * rounds.visits
        name = f"measuring {len(models)} {kind}, visits"
        # What varies is measured again with what varied in other groups: by then the machine may be quiet, and nothing
        # waits for that.
        once = replace(self.protocol, retries=0)
        with self.progress.task(name, done + len(wanted) * rounds.visits, done) as task:
            for outcomes in self.runner.measure(wanted, rounds, once, on_visits=task.advance):
                kept = {
                    key: found for key, found in outcomes.items() if key in models and self._better(kind, key, found)
                }
                if kept:
                    self.journal.add(kind, kept)

    def _better(self, kind: Kind, key: str, outcome: Outcome) -> bool:
        """Whether an outcome was disturbed no more than what the journal has of this model."""
        known = self.journal.outcomes[kind]
        before = known.get(key)
        if not isinstance(before, Timing) or not isinstance(outcome, Timing):
            return True
        usual = usual_reference(timing for timing in known.values() if isinstance(timing, Timing))
        now, then = (disturbance(timing, usual, self.protocol.drift_above) for timing in (outcome, before))
        return now <= then


def _drifting(timings: Mapping[str, Timing]) -> dict[str, Timing]:
    """`timings` as if runs never varied, so that other disturbances alone are seen."""
    return {key: replace(timing, noise="") if timing.noise == "spread" else timing for key, timing in timings.items()}


def all_measured(kind: Kind, outcomes: Mapping[str, Outcome]) -> dict[str, Timing]:
    """The timings, if there are no refusals; raises `UserError` if there are, naming the first."""
    timings = {key: outcome for key, outcome in outcomes.items() if isinstance(outcome, Timing)}
    refused = {key: outcome for key, outcome in outcomes.items() if isinstance(outcome, Refusal)}
    if refused:
        key, refusal = next(iter(refused.items()))
        raise UserError(
            f"the device's runtime cannot run {len(refused)} of {len(outcomes)} {kind}, the first of them {key}: "
            f"{refusal.reason}; take them out of the space, or use another runtime"
        )
    return timings
