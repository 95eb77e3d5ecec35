"""Measuring finalists: whole networks as they would be exported, all in turn; and the journal of what was measured.

The journal is kept while a search goes on, so that one that was killed measures nothing twice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from pathlib import Path

from nasdeploy.convert import model_for
from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import Part
from nasdeploy.core.progress import Progress
from nasdeploy.core.settings import Settings
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.profile import named_parts, reference_model, whole_network
from nasdeploy.latency.protocol import MeasurementProtocol, Timing
from nasdeploy.latency.runners.processes import open_processes
from nasdeploy.latency.runners.runner import Refusal
from nasdeploy.latency.table import LatencyTable
from nasdeploy.nn.network import Network, NetworkPart
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Model
from nasdeploy.searching.search import Measure
from nasdeploy.store.files import append_json_line, read_json_lines
from nasdeploy.store.records import parse_record


def measure_networks(
    archs: Sequence[Arch],
    network_of: Callable[[Arch], Network],
    space: SearchSpace,
    device: Device,
    progress: Progress,
) -> dict[Arch, Timing]:
    """Latencies of whole networks on `device` by the protocol for them, beside the reference graph of their space.

    They are those of several processes, after the gaps that the device file says. `network_of` gives the networks ready
    for inference.

    Raises `UserError` if the device cannot be used or its runtime refuses one.
    """
    protocol = MeasurementProtocol().with_idle(device.idle_ms)
    parts = {arch: named_parts(arch.text, space.plan(arch)) for arch in archs}
    arch_of = {key: arch for arch, named in parts.items() for key in named}
    models = {
        key: partial(_model, network_of, arch, part, device) for arch in archs for key, part in parts[arch].items()
    }
    reference = partial(reference_model, space, device)
    timings: dict[str, Timing] = {}
    visits = len(models) * protocol.networks.visits
    with open_processes(device, progress.say) as runner, progress.task("measuring finalists, visits", visits) as task:
        found = runner.measure(models, protocol.networks, protocol, reference=reference, on_visits=task.advance)
        for outcomes in found:
            for key, outcome in outcomes.items():
                if isinstance(outcome, Refusal):
                    raise UserError(f"device {device.name}, network {arch_of[key].digest}: {outcome.reason}")
                timings[key] = outcome
    return {arch: whole_network(named, timings) for arch, named in parts.items()}


def _model(network_of: Callable[[Arch], Network], arch: Arch, part: Part, device: Device) -> Model:
    network = network_of(arch)
    module = network if len(network.plan.parts) == 1 else NetworkPart(network, part.name)
    return model_for(module, [tensor for _, tensor in part.inputs], device)


class _Line(Settings):
    table: str
    arch: str
    timing: Timing


class FinalistJournal:
    """A file of JSON lines, one for each measured network; a line counts if it is of one of the present tables.

    They hold for one search: a machine that is slower today than on the day of an earlier one has to be measured today.
    """

    def __init__(self, path: Path, tables: Sequence[LatencyTable]) -> None:
        """Take up what a killed search left at `path`; raises `UserError` if it is damaged."""
        self._path = path
        self._tables = {table.conditions.device.name: _digest(table) for table in tables}
        lines = (parse_record(_Line, line, path, "delete that file") for line in read_json_lines(path))
        self._known = {(line.table, line.arch): line.timing for line in lines}

    def around(self, measure: Measure) -> Measure:
        """`measure`, but for what is known."""

        def measured(device: str, archs: Sequence[Arch]) -> Mapping[Arch, Timing]:
            table = self._tables[device]
            known = {arch: self._known[table, arch.text] for arch in archs if (table, arch.text) in self._known}
            missing = [arch for arch in archs if arch not in known]
            new = measure(device, missing) if missing else {}
            for arch, timing in new.items():
                append_json_line(self._path, {"table": table, "arch": arch.text, "timing": asdict(timing)})
                self._known[table, arch.text] = timing
            return {**known, **new}

        return measured

    def remove(self) -> None:
        """The search has ended, whether or not it found something."""
        self._path.unlink(missing_ok=True)


def _digest(table: LatencyTable) -> str:
    return sha256(table.model_dump_json().encode()).hexdigest()[:12]
