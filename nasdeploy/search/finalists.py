"""Measuring finalists: whole networks as they would be exported, all in turn."""

from collections.abc import Callable, Sequence
from functools import partial

from nasdeploy.arch import Arch
from nasdeploy.convert import quick_onnx
from nasdeploy.latency.measure import Protocol, Timing, measure
from nasdeploy.nn.network import Network
from nasdeploy.progress import Progress
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Session


def measure_networks(
    archs: Sequence[Arch], network_of: Callable[[Arch], Network], device: Device, progress: Progress
) -> dict[Arch, Timing]:
    """Latencies of whole networks on `device` by the protocol for them; `network_of` gives them ready for inference."""
    protocol = Protocol()
    by_text = {arch.text: arch for arch in archs}
    openers = {text: partial(_open, network_of, arch, device) for text, arch in by_text.items()}
    timings: dict[Arch, Timing] = {}
    with progress.task("measuring finalists, visits", len(archs) * protocol.networks.visits) as task:
        for group in measure(openers, protocol.networks, protocol, on_visit=task.advance):
            timings |= {by_text[text]: timing for text, timing in group.items()}
    return timings


def _open(network_of: Callable[[Arch], Network], arch: Arch, device: Device) -> Session:
    network = network_of(arch)
    shapes = tuple(shape for _, shape in network.plan.inputs)
    return runtime_of(device).open(quick_onnx(network, shapes, device.batch), device)
