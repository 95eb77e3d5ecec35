"""Measuring finalists: whole networks as they would be exported, all in turn."""

from collections.abc import Callable, Sequence
from functools import partial

from nasdeploy.convert import model_for
from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.profile import reference_model
from nasdeploy.latency.protocol import MeasurementProtocol, Timing
from nasdeploy.latency.runners.processes import open_processes
from nasdeploy.latency.runners.runner import Refusal
from nasdeploy.nn.network import Network
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Model


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
    by_text = {arch.text: arch for arch in archs}
    models = {text: partial(_model, network_of, arch, device) for text, arch in by_text.items()}
    reference = partial(reference_model, space, device)
    timings: dict[Arch, Timing] = {}
    visits = len(models) * protocol.networks.visits
    with open_processes(device, progress.say) as runner, progress.task("measuring finalists, visits", visits) as task:
        found = runner.measure(models, protocol.networks, protocol, reference=reference, on_visits=task.advance)
        for outcomes in found:
            for text, outcome in outcomes.items():
                if isinstance(outcome, Refusal):
                    raise UserError(f"device {device.name}, network {by_text[text].digest}: {outcome.reason}")
                timings[by_text[text]] = outcome
    return timings


def _model(network_of: Callable[[Arch], Network], arch: Arch, device: Device) -> Model:
    network = network_of(arch)
    shapes = tuple(tensor.shape for _, tensor in network.plan.only.inputs)
    return model_for(network, shapes, device)
