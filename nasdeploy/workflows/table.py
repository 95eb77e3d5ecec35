"""The latency table of a run's space, and whether a table still holds on its device."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from nasdeploy.core.plan import Plan
from nasdeploy.core.progress import Progress
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.calibration import evenly, relative_errors
from nasdeploy.latency.campaign import Kind, all_measured
from nasdeploy.latency.compare import Ratios, ratios
from nasdeploy.latency.profile import block_models, named_parts, network_model, profile, whole_network
from nasdeploy.latency.protocol import Rounds, Timing
from nasdeploy.latency.runners.open_runner import check_device
from nasdeploy.latency.runners.runner import ModelMaker, Runner
from nasdeploy.latency.table import LatencyTable, find_table, table_path
from nasdeploy.recipe import Recipe, space_of
from nasdeploy.runtimes.device import Device
from nasdeploy.store.run import Run


def ensure_table(run: Run, recipe: Recipe, device: Device, progress: Progress) -> LatencyTable:
    """Return the latency table of the space of a run with that recipe on a device, measured now if there is none."""
    space = space_of(run, recipe)
    path = table_path(space, device)
    if path.exists():
        progress.say(f"profile: {path} is there")
        return find_table(space, device)
    progress.say(f"profile: space {space.name} on device {device.name}, into {path}")
    table = profile(space, device, path, progress)
    run.finish("profile", {"device": device.name, "table": str(path)})
    return table


TIE = 0.03
"""The relative difference of two measurements of one thing in two processes, on a quiet machine."""

T = TypeVar("T")


@dataclass(frozen=True)
class RecheckSize:
    """How much of a table is measured again."""

    entries: int = 24
    networks: int = 8


@dataclass(frozen=True)
class Check:
    """A sample of a table measured again."""

    differences: list[str]
    """The differences, one line for each thing that differs between the device then and now."""
    entries: Ratios
    """Seconds now by those in the table."""
    networks: Ratios
    prediction_error: float
    """The mean absolute relative error of predictions for the networks, undisturbed, as measured now."""
    allowed_error: float
    noisy: int
    """How many of these measurements are not to be trusted."""

    @property
    def holds(self) -> bool:
        """Whether entries, networks and predictions are what a measurement now gives."""
        moved = max(abs(found.median - 1) for found in (self.entries, self.networks))
        return moved <= TIE and self.prediction_error <= self.allowed_error


def check(
    table: LatencyTable, space: SearchSpace, runner: Runner, progress: Progress, *, sample: RecheckSize, strict: bool
) -> Check:
    """Measure a sample of the table's entries and networks again, with a runner of its device, by its protocol.

    Raises `UserError` if `strict` and the device differs from the table's.
    """
    table.require_space(space)
    device, protocol = table.conditions.device, table.conditions.protocol
    differing = check_device(table, device, strict=strict, here=runner.fingerprint)
    for line in differing:
        progress.say(f"the device differs from the table's: {line}")
    blocks = space.distinct_blocks()
    keys = spread([key for key in by_latency(table.entries) if key in blocks], sample.entries)
    measured = _measure(
        runner,
        block_models({key: blocks[key] for key in keys}, device),
        "blocks",
        protocol.blocks,
        table,
        progress,
    )
    networks = {space.arch(n.arch).text: n for n in sorted(table.networks, key=lambda n: n.timing.median)}
    plans = {text: space.plan(space.arch(networks[text].arch)) for text in spread(list(networks), sample.networks)}
    parts = {text: named_parts(text, plan) for text, plan in plans.items()}
    timings = _measure(
        runner,
        {key: partial(network_model, Plan((part,)), device) for named in parts.values() for key, part in named.items()},
        "networks",
        protocol.networks,
        table,
        progress,
    )
    whole = {text: whole_network(named, timings) for text, named in parts.items()}
    errors = relative_errors(
        [table.predict(plan).seconds / table.median_ratio for plan in plans.values()],
        [whole[text].undisturbed for text in plans],
    )
    return Check(
        differences=differing,
        entries=_ratios({key: table.entries[key] for key in keys}, measured),
        networks=_ratios({text: networks[text].timing for text in plans}, whole),
        prediction_error=float(np.abs(errors).mean()),
        allowed_error=_allowed(table),
        noisy=sum(timing.noisy for timing in [*measured.values(), *whole.values()]),
    )


def _allowed(table: LatencyTable) -> float:
    """Return twice the table's own error: the sample is small. At least that of two measurements."""
    own = table.held_out_undisturbed.mean_absolute if table.held_out_undisturbed else table.uncertainty
    return max(TIE, 2 * own)


def by_latency(entries: Mapping[str, Timing]) -> list[str]:
    """Return the keys in ascending latency."""
    return sorted(entries, key=lambda key: entries[key].median)


def spread(items: Sequence[T], number: int) -> list[T]:
    """Return up to `number` items at equal distances, the first and the last included."""
    return [items[place] for place in evenly(len(items), number)] if items else []


def _measure(
    runner: Runner,
    models: Mapping[str, ModelMaker],
    what: Kind,
    rounds: Rounds,
    table: LatencyTable,
    progress: Progress,
) -> dict[str, Timing]:
    protocol = table.conditions.protocol
    with progress.task(f"measuring {len(models)} {what} again, visits", len(models) * rounds.visits) as task:
        groups = runner.measure(models, rounds, protocol, on_visits=task.advance)
        outcomes = {key: outcome for group in groups for key, outcome in group.items()}
    return all_measured(what, outcomes)


def _ratios(then: Mapping[str, Timing], now: Mapping[str, Timing]) -> Ratios:
    found = Ratios.of(list(ratios(then, now).values()))
    assert found is not None
    return found
