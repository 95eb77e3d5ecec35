"""One network in several runtimes: how fast each is on its device, how large the file, how near PyTorch the outputs.

What a runtime refuses, or what is not installed, is a row with its reason, and never the end of the others.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nasdeploy.core.errors import CheckFailed, UserError
from nasdeploy.core.progress import Progress
from nasdeploy.core.resources import resource_names
from nasdeploy.exporting.record import Disagreement, milliseconds, outputs_of
from nasdeploy.latency.protocol import MeasurementProtocol, Timing
from nasdeploy.latency.runners.in_turn import DeviceModel, measure_in_turn
from nasdeploy.latency.runners.runner import Outcome, Refusal
from nasdeploy.report.figures import LatencyBar, draw_latencies
from nasdeploy.runtimes import RUNTIMES, described_runtime, runtime_of
from nasdeploy.runtimes.device import LOCAL, Device, load_device
from nasdeploy.runtimes.runtime import Array, Model, Precision, Session
from nasdeploy.workflows.compared_network import ComparedNetwork, ReadyModel

_DEFAULT = MeasurementProtocol()


@dataclass(frozen=True)
class RuntimeResult:
    """What came of a network on one device. Latencies are of calls back to back, in the median of the processes."""

    device: str
    """The name of the device."""
    runtime: str
    """The name of its runtime."""
    version: str | None
    """The version of the runtime on this machine; None for boards, and where it is not installed."""
    precision: Precision
    """The precision that the model is made for."""
    threads: int
    """The threads that the runtime might use."""
    hosts: tuple[str, ...]
    """The boards or phones that it was measured on; empty for this machine."""
    reason: str | None = None
    """Why it was not measured; None if it was."""
    megabytes: float | None = None
    """The size of the files in megabytes; None where there are none."""
    median_ms: float | None = None
    """The milliseconds that half of the calls took at most; like the next three None where it was not measured."""
    p10_ms: float | None = None
    """The milliseconds that 10 % of the calls took at most."""
    p90_ms: float | None = None
    """The milliseconds that 90 % of the calls took at most."""
    p95_ms: float | None = None
    """The milliseconds that 95 % of the calls took at most."""
    processes_ms: tuple[float, ...] = ()
    """The medians of the processes in milliseconds, ascending; empty where it was one."""
    noise: str = ""
    """Why the latencies are not to be trusted; empty if they are."""
    ties: tuple[str, ...] = ()
    """The other devices whose medians the processes do not tell from this one's."""
    difference: float | None = None
    """The largest difference from PyTorch's outputs, relative by the scale of the precision; None if not compared."""
    allowed: float | None = None
    """The largest difference that counts as agreement; None where any does."""
    problem: str | None = None
    """How the outputs are wrong; None if they are right, or were not compared."""

    @property
    def name(self) -> str:
        """The device and its runtime, in words."""
        return f"{self.device} ({self.runtime})"

    def refused(self, why: Refusal) -> "RuntimeResult":
        """Return the same with the reason `why` it was not measured."""
        return replace(self, reason=why.reason.removeprefix(f"device {self.device}: "))

    @property
    def spread_ms(self) -> tuple[float, float, float]:
        """The p10, median and p90 in milliseconds; raises `ValueError` where it was not measured."""
        if self.p10_ms is None or self.median_ms is None or self.p90_ms is None:
            raise ValueError(f"{self.name} was not measured")
        return self.p10_ms, self.median_ms, self.p90_ms


@dataclass(frozen=True)
class RuntimeComparison:
    """A network in several runtimes."""

    network: str
    """The name of the network."""
    macs: int
    """The multiply-accumulate operations for one sample."""
    params: int
    """The number of learned parameters."""
    batch: int
    """The images of a call."""
    results: tuple[RuntimeResult, ...]
    """The results by device, the fastest first, and after them what was not measured."""

    @property
    def measured(self) -> tuple[RuntimeResult, ...]:
        """The results that have a latency, the fastest first."""
        return tuple(each for each in self.results if each.reason is None)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def draw(self, path: Path) -> None:
        """Draw the latencies as bars in milliseconds, into the PNG `path`."""
        bars = [LatencyBar(each.name, *each.spread_ms, note=f", {each.megabytes:.3g} MB") for each in self.measured]
        draw_latencies(bars, f"{self.network}, batch {self.batch}", path)

    def require_agreement(self) -> None:
        """Raise `UserError` if nothing was measured, and `CheckFailed` if a runtime computes something else."""
        if not self.measured:
            first = self.results[0]
            more = f" (and {len(self.results) - 1} more devices)" if len(self.results) > 1 else ""
            raise UserError(f"nothing was measured: device {first.device}: {first.reason}{more}")
        wrong = [each for each in self.measured if each.problem is not None]
        if wrong:
            more = f" (and {len(wrong) - 1} more devices)" if len(wrong) > 1 else ""
            raise CheckFailed(f"device {wrong[0].device}: {wrong[0].problem}{more}; use another runtime")


def compare(
    network: ComparedNetwork, devices: Sequence[Device], progress: Progress, protocol: MeasurementProtocol = _DEFAULT
) -> RuntimeComparison:
    """Measure a network on devices, in turn, and compare its outputs with PyTorch's in the runtimes that are here."""
    ready = dict(_ready(network, devices, progress))
    models = {
        device.name: DeviceModel(device, model.model)
        for device in devices
        if isinstance(model := ready[device.name], ReadyModel)
    }
    visits = sum(model.openings * model.visits(protocol) for model in models.values())
    with progress.task("measuring, visits", visits) as task:
        outcomes = measure_in_turn(models, protocol, progress.say, task.advance)
    results = [_result(network, device, ready[device.name], outcomes) for device in devices]
    results.sort(key=lambda each: (each.median_ms is None, each.median_ms or 0.0))
    return RuntimeComparison(network.text, network.macs, network.params, devices[0].batch, tuple(results))


def _ready(
    network: ComparedNetwork, devices: Sequence[Device], progress: Progress
) -> Iterator[tuple[str, ReadyModel | Refusal]]:
    """Make each device's model, or find out why there is none, by the device's name."""
    with progress.task("models", len(devices)) as task:
        for device in devices:
            try:
                (runtime_of if device.is_local else described_runtime)(device)
                yield device.name, _sendable(network.make(device), device)
            except (UserError, CheckFailed) as error:
                yield device.name, Refusal(str(error))
            task.advance()


def _sendable(model: ReadyModel, device: Device) -> ReadyModel:
    """Return a model; raises `UserError` if it is not one file, and has to be sent to a board."""
    if not device.is_local and not isinstance(model.model, bytes):
        raise UserError("the model is in several files, and a board is sent one; export it in another format too")
    return model


def _result(
    network: ComparedNetwork, device: Device, model: ReadyModel | Refusal, outcomes: Mapping[str, Outcome]
) -> RuntimeResult:
    """Return what came of a device, whose model is this one or was refused."""
    row = RuntimeResult(
        device.name,
        device.runtime,
        version=RUNTIMES[device.runtime].version() if device.is_local and _is_here(device) else None,
        precision=device.precision,
        threads=device.threads,
        hosts=device.hosts or (device.host,),
    )
    if isinstance(model, Refusal):
        return row.refused(model)
    outcome = outcomes[device.name]
    if isinstance(outcome, Refusal):
        return row.refused(outcome)
    figures: dict[str, Any] = milliseconds(outcome)
    others = {name: other for name, other in outcomes.items() if isinstance(other, Timing) and name != device.name}
    measured = replace(
        row,
        megabytes=model.bytes / 1e6,
        processes_ms=tuple(1e3 * seconds for seconds in outcome.processes),
        noise=outcome.noise,
        ties=tuple(name for name, other in others.items() if outcome.ties(other)),
        **figures,
    )
    return replace(measured, **_agreement(network, device, model.model))


def _is_here(device: Device) -> bool:
    """Return whether this machine can run the device's runtime, wherever the device is."""
    runtime = RUNTIMES.get(device.runtime)
    return runtime is not None and runtime.missing() is None and runtime.obstacle() is None


def _agreement(network: ComparedNetwork, device: Device, model: Model) -> dict[str, Any]:
    """Return how far outputs are from PyTorch's in the device's runtime on this machine, if that is here.

    In int8 random weights have random ranges, so that nothing is compared.
    """
    if not _is_here(device) or (device.precision == "int8" and not network.is_trained):
        return {}
    allowed = network.allowed(device.precision)
    here = device.model_copy(update={"host": LOCAL, "hosts": (), "python": "python3"})
    try:
        session = runtime_of(here).open(model, here)
        try:
            found = _all_rows(session, network.inputs)
        finally:
            session.close()
        largest = network.difference(device.precision, found)
    except (UserError, Disagreement) as error:
        return {"problem": str(error)}
    problem = None
    if not np.isfinite(largest) or (allowed is not None and largest > allowed):
        limit = "" if allowed is None else f", allowed {allowed:g}"
        problem = f"its outputs differ from PyTorch's by {largest:.2g}{limit}"
    return {"difference": largest, "allowed": allowed, "problem": problem}


def _all_rows(session: Session, inputs: Sequence[Array]) -> list[Array]:
    """Return the outputs of all rows, computed as many at a time as a timed call takes: a file may know no others."""
    rows, batch = len(inputs[0]), next(iter(session.inputs.values()))[0]
    parts = []
    for start in range(0, rows, batch):
        places = np.arange(start, start + batch) % rows
        parts.append(outputs_of(session, [array[places] for array in inputs]))
    return [np.concatenate(pieces)[:rows] for pieces in zip(*parts, strict=True)]


def chosen_devices(names: Sequence[str]) -> tuple[Device, ...]:
    """Return the devices of these names or files, by default all that come with nasdeploy and can run here.

    Raises `UserError` for a device that is not there or named twice, and for devices of different batches.
    """
    devices = [load_device(name) for name in names] if names else _usable()
    for number, device in enumerate(devices):
        if device.name in (other.name for other in devices[:number]):
            raise UserError(f"device {device.name} is named twice; name each once")
        if device.batch != devices[0].batch:
            raise UserError(
                f"batch of device {device.name} is {device.batch}, of {devices[0].name} {devices[0].batch}, so that "
                "their latencies do not compare; make them alike"
            )
    return tuple(devices)


def _usable() -> list[Device]:
    devices = [load_device(name) for name in resource_names("profiles")]
    return [device for device in devices if device.is_local and _is_here(device)]
