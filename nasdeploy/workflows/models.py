"""Finished models put to work: their latencies side by side, and the classes that one gives to image files.

Latency is that of ONNX files, bundles, and models of torchvision and timm by name.
"""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nasdeploy.core.errors import UserError, suggestion
from nasdeploy.core.escaping import cell
from nasdeploy.core.plan import TensorType
from nasdeploy.core.progress import Progress
from nasdeploy.exporting.bundle.pictures import Refused, image_files, prepare, read_rgb
from nasdeploy.exporting.bundle.predict import probabilities
from nasdeploy.exporting.bundle.verify import first_runnable
from nasdeploy.exporting.bundle.write import load_bundle
from nasdeploy.exporting.formats import FORMATS
from nasdeploy.exporting.formats.format import Interchange
from nasdeploy.exporting.manifest import ExportManifest
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds, Timing
from nasdeploy.latency.runners.processes import open_processes
from nasdeploy.latency.runners.runner import Refusal, Runner
from nasdeploy.runtimes import described_runtime
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Model, Session

if TYPE_CHECKING:
    from torch import nn


_DEFAULT = MeasurementProtocol(sustained_s=1.0)
_SIDE = 224


@dataclass(frozen=True)
class BenchModel:
    """A model to measure."""

    make: Callable[[], Model]
    bytes: int
    """The bytes of the file; of a model by name, of its parameters in fp32."""


@dataclass(frozen=True)
class BenchAfterGaps:
    """Calls that came after the device had done nothing for `gap_ms`."""

    gap_ms: float
    median_ms: float
    p10_ms: float
    p90_ms: float
    p95_ms: float
    processes_ms: tuple[float, ...]
    noise: str


@dataclass(frozen=True)
class BenchResult:
    """What was found out about a model. Latencies are of calls back to back, in the median of the processes."""

    model: str
    megabytes: float
    median_ms: float
    p10_ms: float
    p90_ms: float
    p95_ms: float
    processes_ms: tuple[float, ...]
    """The medians of the processes, ascending; empty where it was one."""
    noise: str
    """Why the figures are not to be trusted; empty if they are."""
    images_per_s: float | None
    """The images that were done within `throughput_s` of the clock, by that; None where it was not measured."""
    throughput_s: float | None
    after_gaps: BenchAfterGaps | None
    """The figures after gaps; None where none were asked for."""
    ties: tuple[str, ...]
    """The other models whose medians the processes do not tell from this one's."""


def bench(
    models: Sequence[str],
    device: Device,
    progress: Progress,
    *,
    gap_ms: float | None = None,
    protocol: MeasurementProtocol = _DEFAULT,
) -> tuple[BenchResult, ...]:
    """Measure models in turn on `device`, on this machine or on its board, in the order given.

    Each is measured in several processes, started anew: back to back, and after gaps of `gap_ms`, by default those of
    the device. Raises `UserError` for a model that is not there, damaged, or refused by the device's runtime.
    """
    with progress.stage("opening the models"):
        chosen = {name: contender(name, device) for name in dict.fromkeys(models)}
    gap_ms = device.idle_ms if gap_ms is None else gap_ms
    rounds = Rounds(group=len(chosen), visits=protocol.networks.visits)
    with open_processes(device, progress.say) as runner:
        timings = _measured(runner, chosen, rounds, protocol, device, progress)
        after = {}
        if gap_ms:
            paused, once = replace(rounds, idle_s=gap_ms / 1e3), replace(protocol, sustained_s=0.0)
            after = _measured(runner, chosen, paused, once, device, progress)
    return tuple(_result(name, each, timings, after.get(name), device, gap_ms) for name, each in chosen.items())


def _measured(
    runner: Runner,
    chosen: Mapping[str, BenchModel],
    rounds: Rounds,
    protocol: MeasurementProtocol,
    device: Device,
    progress: Progress,
) -> dict[str, Timing]:
    found: dict[str, Timing] = {}
    makers = {name: each.make for name, each in chosen.items()}
    how = f"after gaps of {1e3 * rounds.idle_s:g} ms" if rounds.idle_s else "back to back"
    with progress.task(f"measuring {how}, visits", len(chosen) * rounds.visits) as task:
        for outcomes in runner.measure(makers, rounds, protocol, on_visits=task.advance):
            for name, outcome in outcomes.items():
                if isinstance(outcome, Refusal):
                    raise UserError(f"{name}: device {device.name} cannot run it: {outcome.reason}")
                found[name] = outcome
    return found


def _result(
    name: str,
    model: BenchModel,
    timings: Mapping[str, Timing],
    after: Timing | None,
    device: Device,
    gap_ms: float,
) -> BenchResult:
    timing = timings[name]
    throughput = timing.throughput
    return BenchResult(
        name,
        model.bytes / 1e6,
        **_milliseconds(timing),
        processes_ms=_processes_ms(timing),
        noise=timing.noise,
        images_per_s=device.batch * throughput.per_s if throughput else None,
        throughput_s=throughput.seconds if throughput else None,
        after_gaps=BenchAfterGaps(gap_ms, **_milliseconds(after), processes_ms=_processes_ms(after), noise=after.noise)
        if after
        else None,
        ties=tuple(other for other in timings if other != name and timing.ties(timings[other])),
    )


def _milliseconds(timing: Timing) -> dict[str, float]:
    return {f"{name}_ms": 1e3 * getattr(timing, name) for name in ("median", "p10", "p90", "p95")}


def _processes_ms(timing: Timing) -> tuple[float, ...]:
    return tuple(1e3 * seconds for seconds in timing.processes)


def contender(text: str, device: Device) -> BenchModel:
    """Return the model that `text` names: a file, a bundle, `torchvision:NAME` or `timm:NAME`; raises `UserError`."""
    library, colon, name = text.partition(":")
    if colon and library in _LIBRARIES:
        return _named(*_LIBRARIES[library](name), device)
    path = Path(text)
    if not path.exists():
        raise UserError(f"{text}: no such file or bundle; a model by name is torchvision:NAME or timm:NAME")
    found = _in_bundle(path, device) if path.is_dir() else BenchModel(path.read_bytes, path.stat().st_size)
    if described_runtime(device).form == "module":
        raise UserError(f"{text}: device {device.name} runs PyTorch modules, not files; use another device, e.g. cpu")
    return found


def _in_bundle(folder: Path, device: Device) -> BenchModel:
    """Return the bundle's file that the device's runtime opens, if it has several that in the device's precision."""
    kind = "onnx" if described_runtime(device).form in ("onnx", "module") else device.runtime
    found = [artefact for artefact in load_bundle(folder).artefacts if artefact.format == kind]
    if not found:
        raise UserError(f"{folder}: holds no {kind} file, which device {device.name} is measured with; export one")
    best = next((artefact for artefact in found if artefact.precision == device.precision), found[0])
    form = FORMATS[kind]
    assert isinstance(form, Interchange), "engines are built from their ONNX files"
    return BenchModel(partial(form.model_in, folder / best.file.name), best.bytes)


def _named(module: "nn.Module", side: int, device: Device) -> BenchModel:
    from nasdeploy.convert import model_for

    size = sum(each.numel() * each.element_size() for each in module.state_dict().values())
    return BenchModel(partial(model_for, module, [TensorType((3, side, side))], device), size)


def _torchvision(name: str) -> tuple["nn.Module", int]:
    """Return a model with random weights, and the side of its images in pixels."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise UserError(f"torchvision has no model '{name}' for images{suggestion(name, known)}")
    crop = models.get_model_weights(name)["DEFAULT"].transforms().crop_size
    module: nn.Module = models.get_model(name, weights=None)
    return module.eval(), int(crop[0])


def _timm(name: str) -> tuple["nn.Module", int]:
    """Open a model of timm."""
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


def as_json(results: Sequence[BenchResult], device: Device) -> dict[str, Any]:
    """Return the results as one JSON object."""
    return {
        "device": device.name,
        "runtime": device.runtime,
        "batch": device.batch,
        "threads": device.threads,
        "models": [asdict(result) for result in results],
    }


@dataclass(frozen=True)
class Prediction:
    """The most likely classes of an image with their probabilities, best first."""

    file: Path
    classes: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Predictions:
    """The predictions for some images, and what was wrong with the others."""

    found: tuple[Prediction, ...]
    unreadable: tuple[str, ...]
    """One line each."""

    def table(self) -> str:
        r"""CSV: file, class, probability, and for each further class that was asked for two more columns.

        Names are escaped: a newline is `\n`, a byte that is not UTF-8 `\xfc`, and what spreadsheets would take for a
        formula stands behind an apostrophe.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        top = max((len(each.classes) for each in self.found), default=1)
        further = [name for place in range(2, top + 1) for name in (f"class_{place}", f"probability_{place}")]
        writer.writerow(["file", "class", "probability", *further])
        for each in self.found:
            classes = (text for name, share in each.classes for text in (cell(name), f"{share:.6f}"))
            writer.writerow([cell(each.file), *classes])
        return text.getvalue()


def predict(
    bundle: Path, images: Sequence[Path], progress: Progress, *, top: int = 1, device: Device | None = None
) -> Predictions:
    """Classify image files, or those in folders, by the first model of `bundle` that runs here or on `device`.

    Raises `UserError` for a damaged bundle, and if there are no images.
    """
    manifest = load_bundle(bundle)
    if not isinstance(manifest, ExportManifest):
        raise UserError(f"{bundle}: its network is for task {manifest.task_name}, and only images can be predicted")
    model = first_runnable(bundle, manifest, device)
    progress.say(f"predict: {model.path} on device {model.device.name}")
    try:
        files, notes = image_files(images)
    except Refused as refusal:
        raise UserError(str(refusal)) from None
    for note in notes:
        progress.say(f"predict: {note}")
    outcomes: list[Prediction | str] = []
    with model.opened() as session, progress.task("images", len(files)) as task:
        for each in _each(files, session, manifest, top):
            outcomes.append(each)
            task.advance()
    return Predictions(
        tuple(each for each in outcomes if isinstance(each, Prediction)),
        tuple(each for each in outcomes if isinstance(each, str)),
    )


def _each(files: Sequence[Path], session: Session, manifest: ExportManifest, top: int) -> Iterator[Prediction | str]:
    """A prediction for each file, or what is wrong with it."""
    (name,) = session.inputs
    steps = manifest.preprocessing.model_dump()
    for file in files:
        try:
            inputs = prepare(read_rgb(file, steps), steps)
        except Refused as refusal:
            yield str(refusal)
            continue
        (logits,) = session.run({name: inputs})
        (shares,) = probabilities(logits)
        best = np.argsort(-shares, kind="stable")[:top]
        yield Prediction(file, tuple((manifest.labels[index], float(shares[index])) for index in best))
