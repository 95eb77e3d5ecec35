"""A network that is compared in several runtimes, with the model that each device's runtime opens.

It is that of a bundle, whose files are taken as they are, or an architecture with random weights, which is converted
for each device as it is to be measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import Plan
from nasdeploy.core.space import SearchSpace
from nasdeploy.exporting.bundle.verify import Sample
from nasdeploy.exporting.bundle.write import load_bundle
from nasdeploy.exporting.formats import FORMATS
from nasdeploy.exporting.formats.format import Interchange, Source, file_name, files_of
from nasdeploy.exporting.manifest import Artefact, ExportManifest
from nasdeploy.exporting.record import TOLERANCES, Yardstick, difference
from nasdeploy.recipe import space_of
from nasdeploy.runtimes import RUNTIMES
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Array, Model, Precision, TorchModel, random_input
from nasdeploy.spaces.resolve import resolve_arch
from nasdeploy.store.evaluations import known_architectures
from nasdeploy.store.run import Run

if TYPE_CHECKING:
    from nasdeploy.nn.network import Network

_ROWS = 4
"""The number of random samples on which an architecture's outputs are compared."""
_CALIBRATING = 8
"""The number of those on which it is normalised."""


@dataclass(frozen=True)
class ReadyModel:
    """A model as a device's runtime opens it."""

    model: Model
    bytes: int
    """The bytes of its files; of a PyTorch module, of its parameters and statistics."""


@dataclass(frozen=True)
class ComparedNetwork:
    """A network of one part, with inputs, what PyTorch makes of them, and its models."""

    text: str
    """The network in words."""
    macs: int
    params: int
    inputs: tuple[Array, ...]
    """An array `[rows, ...]` for each input."""
    outputs: tuple[Array, ...]
    """PyTorch's, an array `[rows, ...]` for each output."""
    make: Callable[[Device], ReadyModel]
    """Makes, or finds, the model for a device; raises `UserError` if there is none."""
    is_trained: bool
    """Whether the weights are those of a training. Of random ones nothing is known in lower precisions."""

    def allowed(self, precision: Precision) -> float | None:
        """Return how far outputs may be from PyTorch's; None where any number will do."""
        return TOLERANCES[precision].allowed if self.is_trained or precision == "fp32" else None

    def difference(self, precision: Precision, outputs: Sequence[Array]) -> float:
        """Return the largest difference of outputs from PyTorch's, which may be no number.

        It is by the scale of the precision (`nasdeploy.exporting.record.Scale`) for a trained network. Of random
        weights outputs are of any size, so that it is relative to the largest of them. Raises `Disagreement` for other
        shapes.
        """
        pairs = list(zip(self.outputs, outputs, strict=True))
        if self.is_trained:
            return max(float(Yardstick.of(precision, right).rows(right, found).max()) for right, found in pairs)
        return max(float(difference(right, found, float(np.abs(right).max())).max()) for right, found in pairs)


def compared_network(network: str | Path | Arch, space: SearchSpace | None, run: Run | None) -> ComparedNetwork:
    """Return the network of a bundle, which is a directory, or of an architecture of a space, by default that of a run.

    Raises `UserError` for a bundle that cannot be compared, and for an architecture that is not in the space.
    """
    if isinstance(network, Path) or (isinstance(network, str) and Path(network).is_dir()):
        if space is not None or run is not None:
            raise UserError(f"{network}: a bundle has its own network; leave `space` and `run` out")
        return bundled_network(Path(network))
    if space is not None and run is not None:
        raise UserError("`space` and `run` exclude each other: a run has its own space")
    if space is None:
        run = run or Run.latest()
        space = space_of(run)
    if isinstance(network, Arch):
        return network_of(space.arch(network.to_json()), space)
    known = () if run is None else known_architectures(run.search_database, space)
    return network_of(resolve_arch(network, space, known, option="network"), space)


def bundled_network(folder: Path) -> ComparedNetwork:
    """Return the network of a bundle of images, with its sample; raises `UserError` for another, or a damaged one."""
    manifest = load_bundle(folder)
    if not isinstance(manifest, ExportManifest):
        raise UserError(
            f"{folder}: its network is for task {manifest.task_name}, and only those of images are compared"
        )
    sample = Sample.load(folder)
    return ComparedNetwork(
        f"{manifest.digest} of {folder}",
        manifest.macs,
        manifest.params,
        (sample.input,),
        (sample.logits,),
        lambda device: found_in(folder, manifest.artefacts, device),
        is_trained=True,
    )


def found_in(folder: Path, artefacts: Sequence[Artefact], device: Device) -> ReadyModel:
    """Return the model of a bundle for a device, one in a single file where there are several.

    Raises `UserError` if none of its `artefacts` is for the device's runtime and precision.
    """
    fitting = [
        (form, artefact)
        for artefact in artefacts
        # Engines are for the GPU that they were built on, and no others.
        if isinstance(form := FORMATS[artefact.format], Interchange)
        and form.runtime(device) == device.runtime
        and artefact.precision == device.precision
    ]
    if not fitting:
        raise UserError(
            f"the bundle holds no file in {device.precision} that {device.runtime} opens; export one with "
            f"`nd.export(format={_format_for(device)})`"
        )
    form, artefact = min(fitting, key=lambda pair: len(pair[0].suffixes))
    return ReadyModel(form.model_in(folder / artefact.file.name), artefact.bytes)


def _format_for(device: Device) -> str:
    """Return the name of the first format that a device's runtime opens."""
    return next(name for name, form in FORMATS.items() if form.runtime(device) == device.runtime)


def network_of(arch: Arch, space: SearchSpace) -> ComparedNetwork:
    """Return a network of an architecture with random weights and normalisations, and random inputs.

    Raises `UserError` for an architecture of several parts.
    """
    plan = space.plan(arch)
    if len(plan.parts) != 1:
        raise UserError(f"network {arch.digest} has {len(plan.parts)} parts, and only those of one are compared")
    rng, types = np.random.default_rng(0), [tensor for _, tensor in plan.only.inputs]

    def rows(number: int) -> tuple[Array, ...]:
        return tuple(random_input((number, *each.shape), each.dtype, each.values, rng) for each in types)

    network = _as_trained(plan, rows(_CALIBRATING))
    return untrained_network(network, rows(_ROWS), f"{arch.digest} of space {space.name}")


def untrained_network(network: "Network", inputs: tuple[Array, ...], text: str) -> ComparedNetwork:
    """Return a network of one part with random weights, in evaluation mode, which is compared on these inputs."""
    import torch

    plan = network.plan
    with torch.inference_mode():
        outputs = tuple(each.numpy() for each in network.run(plan.only.name, *map(torch.from_numpy, inputs)))
    return ComparedNetwork(
        text,
        plan.macs,
        plan.params,
        inputs,
        outputs,
        lambda device: _converted(network, device),
        is_trained=False,
    )


def _as_trained(plan: Plan, inputs: Sequence[Array]) -> "Network":
    """Return a network with random weights, normalised on these inputs.

    Otherwise activations would vanish from layer to layer, and outputs hardly depend on the inputs.
    """
    import torch

    from nasdeploy.latency.profile import randomise_norms
    from nasdeploy.nn.network import Network
    from nasdeploy.supernet.evaluate import calibrate

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network(plan)
    randomise_norms(network)
    given = [torch.from_numpy(each) for each in inputs]
    return calibrate(network, [given], lambda runner, batch: runner.run(plan.only.name, *batch))


def _converted(network: "Network", device: Device) -> ReadyModel:
    """Return a network as it is measured on a device, or exported where nothing else makes files for its runtime."""
    from nasdeploy.convert.measured import CONVERTERS, model_for

    if RUNTIMES[device.runtime].form not in CONVERTERS:
        return _exported(network, device)
    model = model_for(network, [tensor for _, tensor in network.plan.only.inputs], device)
    if isinstance(model, TorchModel):
        size = sum(each.numel() * each.element_size() for each in network.state_dict().values())
    else:
        size = len(model) if isinstance(model, bytes) else model.stat().st_size
    return ReadyModel(model, size)


def _exported(network: "Network", device: Device) -> ReadyModel:
    from nasdeploy.exporting.conversions import Conversions

    form, conversions = FORMATS[_format_for(device)], Conversions(network)
    missing = form.missing()
    if missing is not None:
        raise UserError(f"device {device.name}: {device.runtime} is not installed as it should be; run: {missing}")
    source = Source(
        network, lambda precision: conversions.onnx(precision, form.recipe(device)), device.precision, device
    )
    with TemporaryDirectory() as folder:
        path = Path(folder, file_name(form, device.precision))
        form.write(source, path)
        return ReadyModel(path.read_bytes(), sum(file.stat().st_size for file in files_of(form, path)))
