"""Measuring a search space on a device: every block, then whole networks, into a latency table."""

from collections.abc import Mapping
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
from nasdeploy.latency.measure import Opener, Protocol, Rounds, Timing, measure
from nasdeploy.latency.stratify import stratified
from nasdeploy.latency.table import LatencyTable, Role, entry_cost, network_terms
from nasdeploy.nn import build
from nasdeploy.nn.network import Network
from nasdeploy.plan import Block, Plan, Shape
from nasdeploy.progress import Progress
from nasdeploy.randomness import generator
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Session
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
    conditions = Conditions.here(space, device, protocol)
    journal = _open_journal(path, conditions, progress, restart)
    blocks = {key: partial(open_block, block, device) for key, block in space.distinct_blocks().items()}
    entries = _measure("blocks", blocks, protocol.blocks, protocol, journal, progress)
    roles = choose_networks(space, entries, protocol)
    # In random order, so that a slow minute does not fall on one part of the latency range.
    archs = list(roles)
    order = generator(0, "order of networks").permutation(len(archs))
    networks = {archs[place].text: partial(open_network, space.plan(archs[place]), device) for place in order}
    timings = _measure("networks", networks, protocol.networks, protocol, journal, progress)
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


def _measure(
    kind: Kind,
    openers: Mapping[str, Opener],
    rounds: Rounds,
    protocol: Protocol,
    journal: Journal,
    progress: Progress,
) -> dict[str, Timing]:
    """Timings of all, of which only those that the journal lacks are measured now."""
    known = journal.timings[kind]
    missing = {key: opener for key, opener in openers.items() if key not in known}
    done = len(openers) - len(missing)
    name = f"measuring {len(openers)} {kind}, visits"
    with progress.task(name, len(openers) * rounds.visits, done * rounds.visits) as task:
        for timings in measure(missing, rounds, protocol, on_visit=task.advance):
            journal.add(kind, timings)
    return {key: known[key] for key in openers}


def open_block(block: Block, device: Device) -> Session:
    """A block with random weights in the device's runtime, to be measured."""
    return _open(build(block), block.inputs, device)


def open_network(plan: Plan, device: Device) -> Session:
    """A whole network with random weights in the device's runtime, to be measured."""
    return _open(Network(plan), tuple(shape for _, shape in plan.inputs), device)


def _open(module: nn.Module, inputs: tuple[Shape, ...], device: Device) -> Session:
    randomise_norms(module)
    return runtime_of(device).open(quick_onnx(module, inputs, device.batch), device)


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
