"""Measuring a search space on a device: every block, then whole networks, into a latency table."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from math import ceil
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nasdeploy.arch import Arch
from nasdeploy.convert import quick_onnx
from nasdeploy.errors import UserError
from nasdeploy.latency.conditions import Conditions
from nasdeploy.latency.journal import Journal, Kind
from nasdeploy.latency.measure import Protocol, Rounds, Timing
from nasdeploy.latency.places.opening import open_place
from nasdeploy.latency.places.place import Model, Place
from nasdeploy.latency.places.work import Outcome, Refusal
from nasdeploy.latency.stratify import stratified
from nasdeploy.latency.table import LatencyTable, Role, entry_cost, network_terms
from nasdeploy.nn import build
from nasdeploy.nn.network import Network
from nasdeploy.plan import Block, Plan, Shape
from nasdeploy.progress import Progress
from nasdeploy.randomness import generator
from nasdeploy.runtimes.device import Device
from nasdeploy.space import SearchSpace
from nasdeploy.store.files import locked, remove_partial_of

_DEFAULT = Protocol()


def profile(
    space: SearchSpace,
    device: Device,
    path: Path,
    progress: Progress,
    *,
    protocol: Protocol = _DEFAULT,
    restart: bool = False,
) -> LatencyTable:
    """Measure `space` on `device` and write the table to `path`.

    What is measured is kept in a journal beside it, so that the same call goes on where a killed one stopped;
    `restart` measures everything anew. An earlier table stays until the new one is whole. Raises `UserError` if the
    space has been measured already, or if another process is measuring it.
    """
    with locked(path.with_name(f".{path.name}.lock"), path):
        remove_partial_of(path)
        return _profile(space, device, path, progress, protocol, restart)


def _profile(
    space: SearchSpace, device: Device, path: Path, progress: Progress, protocol: Protocol, restart: bool
) -> LatencyTable:
    with open_place(device, progress.say) as place:
        conditions = Conditions.of(space, device, place.fingerprint, protocol)
        journal = _open_journal(path, conditions, progress, restart)
        measuring = Measuring(place, protocol, journal, progress)
        blocks = {key: partial(block_model, block, device) for key, block in space.distinct_blocks().items()}
        entries = measuring.timings("blocks", blocks, protocol.blocks)
        roles = choose_networks(space, entries, protocol)
        # In random order, so that a slow minute does not fall on one part of the latency range.
        archs = list(roles)
        order = generator(0, "order of networks").permutation(len(archs))
        networks = {archs[i].text: partial(network_model, space.plan(archs[i]), device) for i in order}
        timings = measuring.timings("networks", networks, protocol.networks)
    measured = [network_terms(entries, space, arch, role, timings[arch.text]) for arch, role in roles.items()]
    table = LatencyTable.fitted(conditions, datetime.now(UTC).isoformat(timespec="seconds"), entries, measured)
    table.save(path)
    journal.remove()
    return table


def choose_networks(space: SearchSpace, entries: Mapping[str, Timing], protocol: Protocol) -> dict[Arch, Role]:
    """Whole networks to measure, spread over the latency range; both ends of it are for calibration."""
    number = protocol.calibration_networks + protocol.held_out_networks
    archs = stratified(space, entry_cost(entries), number, generator(0, "choice of networks"))
    calibrating = ceil(len(archs) * protocol.calibration_networks / number)
    places = set(np.linspace(0, len(archs) - 1, calibrating).round().astype(int).tolist())
    return {arch: "calibration" if place in places else "held-out" for place, arch in enumerate(archs)}


def _open_journal(path: Path, conditions: Conditions, progress: Progress, restart: bool) -> Journal:
    file = path.with_name(f"{path.stem}.journal.jsonl")
    if restart:
        file.unlink(missing_ok=True)
    elif path.exists() and not file.exists():
        raise UserError(f"{path}: this is measured already; use it, or measure again with --restart")
    journal = Journal(file, conditions)
    if journal.discarded:
        progress.say(f"Starting anew: what was measured before does not fit ({'; '.join(journal.discarded)}).")
    return journal


@dataclass(frozen=True)
class Measuring:
    """One measurement of a table, wherever it runs; all of it goes through a journal."""

    place: Place
    protocol: Protocol
    journal: Journal
    progress: Progress

    def timings(self, kind: Kind, models: Mapping[str, Model], rounds: Rounds) -> dict[str, Timing]:
        """Timings of all, of which only those that the journal lacks are measured now.

        Raises `UserError` if the runtime refuses some, after all others were measured.
        """
        known = self.journal.outcomes[kind]
        missing = {key: model for key, model in models.items() if key not in known}
        done = len(models) - len(missing)
        name = f"measuring {len(models)} {kind}, visits"
        with self.progress.task(name, len(models) * rounds.visits, done * rounds.visits) as task:
            for outcomes in self.place.measure(missing, rounds, self.protocol, on_visits=task.advance):
                self.journal.add(kind, outcomes)
        return _all_measured(kind, {key: known[key] for key in models})


def _all_measured(kind: Kind, outcomes: Mapping[str, Outcome]) -> dict[str, Timing]:
    timings = {key: outcome for key, outcome in outcomes.items() if isinstance(outcome, Timing)}
    refused = {key: outcome for key, outcome in outcomes.items() if isinstance(outcome, Refusal)}
    if refused:
        key, refusal = next(iter(refused.items()))
        raise UserError(
            f"the device's runtime cannot run {len(refused)} of {len(outcomes)} {kind}, the first of them {key}: "
            f"{refusal.reason}; take them out of the space, or use another runtime"
        )
    return timings


def block_model(block: Block, device: Device) -> bytes:
    """A block with random weights, to be measured."""
    return _model(build(block), block.inputs, device)


def network_model(plan: Plan, device: Device) -> bytes:
    """A whole network with random weights, to be measured."""
    return _model(Network(plan), tuple(shape for _, shape in plan.inputs), device)


def _model(module: nn.Module, inputs: tuple[Shape, ...], device: Device) -> bytes:
    randomise_norms(module)
    return quick_onnx(module, inputs, device.batch)


def randomise_norms(module: nn.Module) -> None:
    """Batch normalisation as in a trained network: fresh ones have scales of zero, which a runtime may fold away."""
    draw = torch.Generator().manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None and norm.running_var is not None
            nn.init.uniform_(norm.weight, 0.5, 1.5, generator=draw)
            nn.init.normal_(norm.bias, 0.0, 0.1, generator=draw)
            norm.running_mean.normal_(0.0, 0.1, generator=draw)
            norm.running_var.uniform_(0.5, 1.5, generator=draw)
