"""Measuring a search space on a device: every block, then whole networks, into a latency table."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from math import ceil, inf
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import torch
from torch import nn

from nasdeploy.convert import MeasuredModule, model_for, models_for
from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import Block, Part, Plan
from nasdeploy.core.progress import Progress, duration
from nasdeploy.core.randomness import generator
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.calibration import evenly, reference_block, stratified
from nasdeploy.latency.campaign import Campaign, Journal, all_measured, drift_corrected_table
from nasdeploy.latency.protocol import MeasurementProtocol, Timing
from nasdeploy.latency.runners.open_runner import open_runner
from nasdeploy.latency.runners.runner import ModelMaker, Runner
from nasdeploy.latency.table import Conditions, LatencyTable, Role, entry_cost
from nasdeploy.latency.time_budget import (
    Pace,
    TimeBudget,
    begun_with,
    sampled_blocks,
    trial_protocol,
    with_networks_within,
    within,
)
from nasdeploy.nn.drawing import rows_repeated
from nasdeploy.nn.network import Network, StaticBlock
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Model
from nasdeploy.store.files import locked_while_written, remove_partial_of

T = TypeVar("T")

_DEFAULT = MeasurementProtocol()


def profile(
    space: SearchSpace,
    device: Device,
    path: Path,
    progress: Progress,
    *,
    protocol: MeasurementProtocol = _DEFAULT,
    budget: TimeBudget | None = None,
    restart: bool = False,
) -> LatencyTable:
    """Measure `space` on `device` and write the table to `path`.

    What is measured is kept in a journal beside it, so that the same call goes on where a killed one stopped;
    `restart` measures everything anew. An earlier table stays until the new one is whole. Within a
    `budget` as much of `protocol` as fits is measured, imports, models and all; where it takes longer in the end, that
    is said, with what took the time. Raises `UserError` if the space has been measured
    already, if another process is measuring it, or if the budget is too small.
    """
    protocol = protocol.with_idle(device.idle_ms)
    started = perf_counter() if budget is None else budget.started
    ends = inf if budget is None else started + budget.seconds
    with locked_while_written(path):
        remove_partial_of(path)
        journal = path.with_name(f"{path.stem}.journal.jsonl")
        if restart:
            journal.unlink(missing_ok=True)
        elif path.exists() and not journal.exists():
            raise UserError(f"{path}: this is measured already; use it, or measure again with `restart=True`")
        with open_runner(device, progress.say) as runner:
            with progress.stage("profile: a trial, to see how long it takes"):
                pace = measure_pace(space, device, runner, protocol)
            spent = perf_counter() - started
            if budget is not None:
                protocol = begun_with(journal) or within(budget.seconds, pace, space, protocol, spent)
            conditions = Conditions.of(space, device, runner.fingerprint, protocol)
            reference = partial(reference_model, space, device)
            kept = _open_journal(journal, conditions, progress)
            campaign = Campaign(runner, protocol, kept, progress, reference, ends)
            table, took = _profile(space, device, path, pace, campaign, conditions)
            took = {"starting and a trial": spent, **took}
            if budget is not None and (late := _over(budget.seconds, took)) is not None:
                progress.say(late)
            return table


def _over(budget_s: float, took: Mapping[str, float]) -> str | None:
    """Say what took the time where it was more than the given one; None where it did not, but for a tenth."""
    if sum(took.values()) <= _ABOUT * budget_s:
        return None
    parts = ", ".join(f"{what} {duration(seconds)}" for what, seconds in took.items())
    return (
        f"profile: took {duration(sum(took.values()))}, more than `budget_min={budget_s / 60:g}`, since the machine is "
        f"slower than in the trial, or the least there is takes as long: {parts}"
    )


_ABOUT = 1.1


def measure_pace(space: SearchSpace, device: Device, runner: Runner, protocol: MeasurementProtocol) -> Pace:
    """Measure how long things take, from a few blocks; those that the runtime refuses are not among them."""
    blocks, trial = sampled_blocks(space), trial_protocol(protocol)
    models = block_models(blocks, device)
    # What is imported for the first model is no part of the others.
    next(iter(models.values()))()
    start = perf_counter()
    found = runner.measure(models, trial.blocks, trial, on_visits=lambda visits: None)
    outcomes = {key: outcome for group in found for key, outcome in group.items()}
    elapsed = perf_counter() - start
    timings = {key: outcome for key, outcome in outcomes.items() if isinstance(outcome, Timing)}
    if not timings:
        all_measured("blocks", outcomes)
    return Pace.of({key: blocks[key] for key in timings}, timings, elapsed, trial)


def _profile(
    space: SearchSpace, device: Device, path: Path, pace: Pace, campaign: Campaign, conditions: Conditions
) -> tuple[LatencyTable, dict[str, float]]:
    """Return the table, and the seconds that its parts took."""
    start = perf_counter()
    protocol, journal = campaign.protocol, campaign.journal
    # One that was stopped goes on as it began.
    fresh = not journal.outcomes["blocks"]
    campaign.announce(space, pace)
    blocks = space.distinct_blocks()
    # In random order, so that a slow minute does not fall on all blocks of a stage, and on every network with it.
    shuffled = {key: blocks[key] for key in _in_random_order(list(blocks), "order of blocks")}
    for_networks = pace.of_networks(space, protocol.calibration_networks + protocol.held_out_networks, protocol)
    found = campaign.timings("blocks", block_models(shuffled, device), protocol.blocks, for_networks)
    entries = {key: found[key] for key in blocks}
    for_blocks = perf_counter() - start
    if campaign.ends < inf and fresh:
        slower = max(1.0, for_blocks / pace.of_blocks(list(space.distinct_blocks().values()), protocol))
        protocol = with_networks_within(campaign.ends - perf_counter(), pace, space, protocol, slower)
        conditions = conditions.model_copy(update={"protocol": protocol})
    with campaign.progress.stage("profile: choosing whole networks"):
        roles = choose_networks(space, entries, protocol)
    # In random order, so that a slow minute does not fall on one part of the latency range.
    archs = _in_random_order(list(roles), "order of networks")
    parts = {arch: named_parts(arch.text, space.plan(arch)) for arch in archs}
    networks = {
        key: partial(network_model, Plan((part,)), device) for arch in archs for key, part in parts[arch].items()
    }
    timings = campaign.timings("networks", networks, protocol.networks)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    measured = {arch: whole_network(parts[arch], timings) for arch in roles}
    with campaign.progress.stage("profile: fitting the table"):
        table = drift_corrected_table(space, conditions, created, entries, measured, roles)
    table.save(path)
    journal.remove()
    return table, {"blocks": for_blocks, "whole networks": perf_counter() - start - for_blocks}


def _in_random_order(items: Sequence[T], name: str) -> list[T]:
    """Return the same order for each table."""
    return [items[index] for index in generator(0, name).permutation(len(items))]


def choose_networks(
    space: SearchSpace, entries: Mapping[str, Timing], protocol: MeasurementProtocol
) -> dict[Arch, Role]:
    """Choose whole networks to measure, spread over the latency range; both ends of it are for calibration."""
    number = protocol.calibration_networks + protocol.held_out_networks
    archs = stratified(space, entry_cost(entries), number, generator(0, "choice of networks"))
    calibrating = ceil(len(archs) * protocol.calibration_networks / number)
    chosen = evenly(len(archs), calibrating)
    return {arch: "calibration" if number in chosen else "held-out" for number, arch in enumerate(archs)}


def _open_journal(path: Path, conditions: Conditions, progress: Progress) -> Journal:
    journal = Journal(path, conditions)
    if journal.discarded:
        progress.say(f"Starting anew: what was measured before does not fit ({'; '.join(journal.discarded)}).")
    return journal


def named_parts(name: str, plan: Plan) -> dict[str, Part]:
    """Return the parts of a network under the names that they are measured by; a network of one part keeps its own."""
    if len(plan.parts) == 1:
        return {name: plan.only}
    return {f"{name} {part.name}": part for part in plan.parts}


def whole_network(parts: Mapping[str, Part], timings: Mapping[str, Timing]) -> Timing:
    """Return the timing of a network from those of its named parts: the sum of runs x seconds.

    Percentiles add up as if all parts were slow at once, which bounds those of the sum from above. It is as noisy as
    the first part that is, and its throughput is not known.
    """
    found = [(part.runs, timings[key]) for key, part in parts.items()]
    runs, first = found[0]
    if len(found) == 1 and runs == 1:
        return first

    def total(seconds: Callable[[Timing], float]) -> float:
        return sum(runs * seconds(timing) for runs, timing in found)

    references = [timing.reference for _, timing in found if timing.reference is not None]
    processes = [[runs * seconds for seconds in timing.processes] for runs, timing in found]
    return Timing(
        median=total(lambda timing: timing.median),
        p10=total(lambda timing: timing.p10),
        p90=total(lambda timing: timing.p90),
        p95=total(lambda timing: timing.p95),
        n=min(timing.n for _, timing in found),
        at=first.at,
        noise=next((timing.noise for _, timing in found if timing.noisy), ""),
        reference=sum(references) / len(found) if len(references) == len(found) else None,
        processes=tuple(map(sum, zip(*processes, strict=False))),
    )


def block_models(blocks: Mapping[str, Block], device: Device) -> dict[str, ModelMaker]:
    """Return makers of blocks with random weights, to be measured in this order, by key."""
    return models_for({key: partial(measured_block, block) for key, block in blocks.items()}, device)


def measured_block(block: Block) -> MeasuredModule:
    """Return a block with random weights and the normalisations of a trained one."""
    return MeasuredModule(_as_trained(partial(StaticBlock, block)), block.inputs)


def reference_model(space: SearchSpace, device: Device) -> Model:
    """Make the graph that tells whether the machine is as fast as usual."""
    block = reference_block(space)
    return model_for(_as_trained(partial(StaticBlock, block)), block.inputs, device)


def network_model(plan: Plan, device: Device) -> Model:
    """Make a whole network of one part with random weights, to be measured."""
    return model_for(_as_trained(partial(Network, plan)), [tensor for _, tensor in plan.only.inputs], device)


def _as_trained(make: Callable[[], nn.Module]) -> nn.Module:
    with rows_repeated():
        module = make()
    randomise_norms(module)
    return module


def randomise_norms(module: nn.Module) -> None:
    """Give the blocks of a network the normalisations of a trained one, as their families say."""
    draw = torch.Generator().manual_seed(0)
    for block in (block for block in module.modules() if isinstance(block, StaticBlock)):
        block.family.randomise(block.weights, draw)
