"""Latency of finished models side by side: ONNX files, bundles, and models of torchvision and timm by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasdeploy.errors import UserError
from nasdeploy.export.bundle.write import load_bundle
from nasdeploy.latency.measure import Protocol, Rounds, Timing
from nasdeploy.latency.places.opening import open_place
from nasdeploy.latency.places.work import Outcome, Refusal
from nasdeploy.progress import Progress
from nasdeploy.registry import suggestion
from nasdeploy.runtimes import described_runtime
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Model

if TYPE_CHECKING:
    from torch import nn

_DEFAULT = Protocol()
_SIDE = 224


@dataclass(frozen=True)
class Contender:
    """A model to measure."""

    make: Callable[[], Model]
    bytes: int
    """Of the file; of a model by name, of its parameters in fp32."""


@dataclass(frozen=True)
class Result:
    """What was found out about a model."""

    model: str
    megabytes: float
    median_ms: float
    p10_ms: float
    p90_ms: float
    p95_ms: float
    images_per_s: float
    noise: str
    """Why the figures are not to be trusted; empty if they are."""


def bench(
    models: Sequence[str], device: Device, progress: Progress, *, protocol: Protocol = _DEFAULT
) -> tuple[Result, ...]:
    """Measure models in turn on `device`, on this machine or on its board, in the order given.

    Raises `UserError` for a model that is not there, damaged, or refused by the device's runtime.
    """
    contenders = {name: contender(name, device) for name in dict.fromkeys(models)}
    rounds = Rounds(group=len(contenders), visits=protocol.networks.visits)
    makers = {name: each.make for name, each in contenders.items()}
    outcomes: dict[str, Outcome] = {}
    with (
        open_place(device, progress.say) as place,
        progress.task("measuring, visits", len(contenders) * rounds.visits) as task,
    ):
        for found in place.measure(makers, rounds, protocol, on_visits=task.advance):
            outcomes |= found
    return tuple(_result(name, each, outcomes[name], device) for name, each in contenders.items())


def _result(name: str, contender: Contender, outcome: Outcome, device: Device) -> Result:
    if isinstance(outcome, Refusal):
        raise UserError(f"{name}: device {device.name} cannot run it: {outcome.reason}")
    return Result(name, contender.bytes / 1e6, **_milliseconds(outcome), **_speed(outcome, device), noise=outcome.noise)


def _milliseconds(timing: Timing) -> dict[str, float]:
    return {f"{name}_ms": 1e3 * getattr(timing, name) for name in ("median", "p10", "p90", "p95")}


def _speed(timing: Timing, device: Device) -> dict[str, float]:
    return {"images_per_s": device.batch / timing.median}


def contender(text: str, device: Device) -> Contender:
    """The model that `text` names: a file, a bundle, `torchvision:NAME` or `timm:NAME`; raises `UserError`."""
    library, colon, name = text.partition(":")
    if colon and library in _LIBRARIES:
        return _named(*_LIBRARIES[library](name), device)
    path = Path(text)
    if path.is_dir():
        path = _in_bundle(path, device)
    elif not path.is_file():
        raise UserError(f"{text}: no such file or bundle; a model by name is torchvision:NAME or timm:NAME")
    if described_runtime(device).form == "module":
        raise UserError(f"{text}: device {device.name} runs PyTorch modules, not files; use another device, e.g. cpu")
    return Contender(path.read_bytes, path.stat().st_size)


def _in_bundle(folder: Path, device: Device) -> Path:
    """The bundle's file that the device's runtime opens, if it has several that in the device's precision."""
    kind = device.runtime if described_runtime(device).form == "program" else "onnx"
    found = [artefact for artefact in load_bundle(folder).artefacts if artefact.format == kind]
    if not found:
        raise UserError(f"{folder}: holds no {kind} file, which device {device.name} is measured with; export one")
    best = next((artefact for artefact in found if artefact.precision == device.precision), found[0])
    return folder / best.file.name


def _named(module: "nn.Module", side: int, device: Device) -> Contender:
    from nasdeploy.convert import model_for

    size = sum(each.numel() * each.element_size() for each in module.state_dict().values())
    return Contender(partial(model_for, module, [(3, side, side)], device), size)


def _torchvision(name: str) -> tuple["nn.Module", int]:
    """A model with random weights, and the side of its images in pixels."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise UserError(f"torchvision has no model '{name}' for images{suggestion(name, known)}")
    crop = models.get_model_weights(name)["DEFAULT"].transforms().crop_size
    module: nn.Module = models.get_model(name, weights=None)
    return module.eval(), int(crop[0])


def _timm(name: str) -> tuple["nn.Module", int]:
    """The same from timm."""
    try:
        import timm
    except ImportError:
        raise UserError("timm is not installed; run: pip install timm") from None
    known = timm.list_models()
    if name.partition(".")[0] not in known:
        raise UserError(f"timm has no model '{name}'{suggestion(name, known)}")
    module: nn.Module = timm.create_model(name, pretrained=False)
    settings: Mapping[str, Any] = module.pretrained_cfg or {}  # type: ignore[assignment]
    return module.eval(), int(settings.get("input_size", (3, _SIDE, _SIDE))[-1])


_LIBRARIES: Mapping[str, Callable[[str], tuple["nn.Module", int]]] = {"torchvision": _torchvision, "timm": _timm}


def as_json(results: Sequence[Result], device: Device) -> dict[str, Any]:
    """The results as one JSON object."""
    return {
        "device": device.name,
        "runtime": device.runtime,
        "batch": device.batch,
        "threads": device.threads,
        "models": [asdict(result) for result in results],
    }
