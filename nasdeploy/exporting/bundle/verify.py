"""A bundle tried on the machine where it has arrived: opening its models, and the gate once more. Torch-free.

PyTorch and the network are not there any more. A model has to give the outputs on the bundle's sample that it gave when
it was exported, and on test images the accuracy that it had.
"""

import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image, Resampling, fromarray

from nasdeploy.core.errors import UserError, lookup, one_line
from nasdeploy.core.score import Metric
from nasdeploy.core.space import NETWORK
from nasdeploy.data.settings import Preprocessing
from nasdeploy.exporting.bundle.pictures import prepare
from nasdeploy.exporting.bundle.predict import SAMPLE
from nasdeploy.exporting.formats import FORMATS, device_for
from nasdeploy.exporting.formats.format import Format
from nasdeploy.exporting.manifest import Artefact, BundleManifest, Embedded, ExportManifest
from nasdeploy.exporting.record import (
    TOLERANCE,
    TOLERANCES,
    Disagreement,
    Sessions,
    Tolerance,
    difference,
    logits_of,
    outputs_of,
)
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Array, Precision, Session
from nasdeploy.tasks.file_scores import ProvenScore


@dataclass(frozen=True)
class Runnable:
    """A model of a bundle that runs on this machine."""

    path: Path
    artefact: Artefact
    form: Format
    device: Device

    @property
    def files(self) -> dict[str, Path]:
        """The file that is opened of each part of the network."""
        names = self.artefact.parts or {NETWORK.name: self.path.name}
        return {part: self.path.with_name(name) for part, name in names.items()}

    @contextmanager
    def opened(self) -> Iterator[Session]:
        """Open a network of one file, closed afterwards; raises `UserError` if the runtime refuses the file."""
        with self.opened_parts() as sessions:
            (session,) = sessions.values()
            yield session

    @contextmanager
    def opened_parts(self) -> Iterator[Sessions]:
        """Open the files of all parts, closed afterwards; raises `UserError` if the runtime refuses one."""
        with ExitStack() as stack:
            sessions = {}
            for part, path in self.files.items():
                sessions[part] = self.form.open(path, self.device)
                stack.callback(sessions[part].close)
            yield sessions


def runnable(folder: Path, artefact: Artefact, device: Device | None = None) -> Runnable:
    """Return a model on `device`, by default that of its export; raises `UserError` if it cannot run there."""
    form = lookup("format", FORMATS, artefact.format)
    reason = form.not_run(artefact.capabilities)
    if reason is not None:
        raise UserError(f"{folder / artefact.file.name}: cannot run here ({reason})")
    target = artefact.device if device is None else device_for(form, device, artefact.precision)
    runtime_of(target)
    return Runnable(folder / artefact.file.name, artefact, form, target)


def first_runnable(folder: Path, manifest: BundleManifest, device: Device | None = None) -> Runnable:
    """Return the bundle's first model that runs here, of those for `device` if that is given.

    Raises `UserError` with what keeps the first from running if none does.
    """
    reasons = []
    for artefact in manifest.artefacts:
        if device is not None and FORMATS[artefact.format].runtime(device) != device.runtime:
            reasons.append(f"{folder / artefact.file.name}: not a file for device {device.name}")
            continue
        try:
            return runnable(folder, artefact, device)
        except UserError as error:
            reasons.append(str(error))
    raise UserError(reasons[0])


_GRAIN = 6
_OF = "logits of "


@dataclass(frozen=True)
class Sample:
    """A picture, what preprocessing makes of it, and what the network and its models make of that.

    The picture is computed, not one of the user's: those may not be for everybody to see.
    """

    pixels: Array
    """uint8 `[height, width, 3]`."""
    input: Array
    """float32 `[1, 3, resolution, resolution]`."""
    logits: Array
    """PyTorch's, float32 `[1, classes]`."""
    outputs: Mapping[str, Array] = field(default_factory=dict)
    """The outputs of each model that was run when it was exported, by the name of its file."""

    def save(self, folder: Path) -> None:
        """Write `sample.npz`; equal samples give equal bytes."""
        outputs = {_OF + name: output for name, output in self.outputs.items()}
        arrays = {"pixels": self.pixels, "input": self.input, "logits": self.logits, **outputs}
        np.savez_compressed(folder / SAMPLE, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, folder: Path) -> "Sample":
        """Return what `save` wrote; raises `UserError` if it is missing or damaged."""
        path, arrays = folder / SAMPLE, _arrays(folder)
        outputs = {name.removeprefix(_OF): arrays[name] for name in arrays if name.startswith(_OF)}
        try:
            sample = cls(arrays["pixels"], arrays["input"], arrays["logits"], outputs)
        except KeyError as error:
            raise UserError(f"{path}: cannot be read ({one_line(error)}); export again") from None
        shapes = (sample.pixels.ndim, sample.input.ndim, sample.logits.ndim)
        if sample.pixels.dtype != np.uint8 or shapes != (3, 4, 2):
            raise UserError(f"{path}: no sample of an exported model; export again")
        return sample


@dataclass(frozen=True)
class TensorSample:
    """Inputs of each part of a network, one row each, and what PyTorch and each model make of them."""

    inputs: Mapping[str, tuple[Array, ...]]
    """The inputs of each part, by its name."""
    outputs: Mapping[str, Mapping[str, tuple[Array, ...]]]
    """The outputs of each part, by the name of the file that is opened first; PyTorch's under an empty name."""

    def save(self, folder: Path) -> None:
        """Write `sample.npz`; equal samples give equal bytes."""
        arrays = {f"input {part} {place}": each for part, row in self.inputs.items() for place, each in enumerate(row)}
        for name, parts in self.outputs.items():
            for part, row in parts.items():
                arrays |= {f"output {part} {place} {name}": each for place, each in enumerate(row)}
        np.savez_compressed(folder / SAMPLE, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, folder: Path) -> "TensorSample":
        """Return what `save` wrote; raises `UserError` if it is missing or damaged."""
        inputs: dict[str, tuple[Array, ...]] = {}
        outputs: dict[str, dict[str, tuple[Array, ...]]] = {}
        try:
            for key, array in _arrays(folder).items():
                kind, part, _, *name = key.split(" ", 3)
                where = inputs if kind == "input" else outputs.setdefault(name[0], {})
                where[part] = (*where.get(part, ()), array)
            assert inputs.keys() == outputs[""].keys()
        except (LookupError, ValueError, AssertionError):
            raise UserError(f"{folder / SAMPLE}: no sample of an exported model; export again") from None
        return cls(inputs, outputs)

    def expected(self, name: str) -> Mapping[str, tuple[Array, ...]]:
        """Return the outputs of the model whose first file is called `name`, or PyTorch's if it was not run."""
        return self.outputs.get(name, self.outputs[""])


def _arrays(folder: Path) -> dict[str, Array]:
    """Return the arrays of a bundle's sample; raises `UserError` if it is missing or damaged."""
    path = folder / SAMPLE
    try:
        with np.load(path, allow_pickle=False) as found:
            return dict(found)
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zipfile.error) as error:
        raise UserError(f"{path}: cannot be read ({one_line(error)}); export again") from None


def make_sample(preprocessing: Preprocessing, network: Callable[[Array], Array]) -> Sample:
    """Return the sample of a `network` from inputs to logits, with something to do for each step of `preprocessing`."""
    pixels = np.asarray(sample_picture(preprocessing.resize))
    inputs = prepare(fromarray(pixels), preprocessing.model_dump())
    return Sample(pixels, inputs, network(inputs))


def sample_picture(shorter_side: int) -> Image:
    """Return a smooth RGB picture of random colours, always the same, a little larger than what is cut out of it."""
    grain = np.random.default_rng(0).integers(0, 256, (_GRAIN, _GRAIN, 3), dtype=np.uint8)
    size = (shorter_side + shorter_side // 3 + 1, shorter_side + shorter_side // 8 + 1)
    return fromarray(grain).resize(size, Resampling.BICUBIC)


ALLOWED: Mapping[Precision, Tolerance] = {**TOLERANCES, "int8": Tolerance(allowed=0.05, scale="spread")}
"""How far outputs here may be from those of the export. In int8 processors differ in where they round."""

_SAME_SAMPLES = 0.005
"""The part of the score that rounding may cost on the same samples."""


@dataclass(frozen=True)
class VerifiedModel:
    """What came out for a model: what is wrong, one line each, and the figures as far as it came."""

    model: str
    problems: tuple[str, ...] = ()
    not_run: str | None = None
    difference: float | None = None
    """How far its outputs on the sample are from those when it was exported, by the scale of its precision."""
    metric: Metric | None = None
    """What it was scored by, if it was."""
    samples: int | None = None
    unreadable: int = 0
    """The number of test samples beside these that were left out, because they cannot be read."""
    score: float | None = None
    score_exported: float | None = None
    median_ms: float | None = None
    median_ms_exported: float | None = None
    images_per_s: float | None = None
    """The samples that were done in a second, back to back."""
    gap_ms: float | None = None
    after_gaps_ms: float | None = None
    """The median after gaps of `gap_ms`, as when it was exported."""
    after_gaps_ms_exported: float | None = None

    def to_json(self, metric: Metric) -> dict[str, Any]:
        """Return the figures as plain values; those of the score are called after the task's metric."""
        names = {"samples": metric.samples, "score": metric.key, "score_exported": f"{metric.key}_exported"}
        return {names.get(name, name): value for name, value in asdict(self).items() if name != "metric"}


def check_inputs(manifest: ExportManifest, sample: Sample) -> None:
    """Raise `Disagreement` unless preprocessing here makes of the sample what it made where it was exported."""
    inputs = prepare(fromarray(sample.pixels), manifest.preprocessing.model_dump())
    largest = float(difference(sample.input, inputs).max())
    if not largest <= TOLERANCE:
        raise Disagreement(f"the sample's input, made here, differs by up to {largest:.2g}, allowed {TOLERANCE:g}")


def check_outputs(model: Runnable, session: Session, sample: Sample) -> float:
    """Return how far the outputs on the sample are from the expected; raises `Disagreement` if that is too far."""
    expected = sample.outputs.get(model.path.name, sample.logits)
    tolerance = ALLOWED[model.artefact.precision]
    assert tolerance.allowed is not None
    spread = float(np.ptp(sample.logits)) if tolerance.scale == "spread" else None
    largest = float(difference(expected, logits_of(session, sample.input), spread).max())
    if not largest <= tolerance.allowed:
        unit = " of their spread" if tolerance.scale == "spread" else ""
        raise Disagreement(
            f"outputs on the sample differ from those when it was exported by up to {largest:.2g}{unit}, allowed "
            f"{tolerance.allowed:g}"
        )
    return largest


def check_embedded(session: Session, embedded: Embedded, sample: Sample) -> float:
    """Return how far outputs on the sample's picture are, for a model that preprocesses by itself; else raise so."""
    expected = sample.outputs.get(embedded.model, sample.logits)
    found = logits_of(session, sample.pixels[np.newaxis])
    largest = float(difference(expected, found, float(np.ptp(sample.logits))).max())
    if not largest <= embedded.allowed:
        raise Disagreement(
            f"outputs on the sample's picture differ from those of {embedded.model} by up to {largest:.2g} of their "
            f"spread, allowed {embedded.allowed:g}"
        )
    return largest


def count_correct(session: Session, manifest: ExportManifest, images: Iterable[tuple[Image, int]]) -> tuple[int, int]:
    """Return how many of the images get their label, and how many there are."""
    steps, correct, count = manifest.preprocessing.model_dump(), 0, 0
    for picture, label in images:
        correct += int(logits_of(session, prepare(picture, steps)).argmax()) == label
        count += 1
    return correct, count


def check_score(value: float, count: int, exported: ProvenScore | None) -> None:
    """Raise `Disagreement` for a score that the export's figures do not allow.

    On as many samples as then, it may differ by rounding only; other samples have to reach its interval.
    """
    if exported is None:
        return
    metric, (low, high) = exported.metric, exported.interval
    if count == exported.samples:
        slack = max(_SAME_SAMPLES, 1 / count) * max(1.0, abs(exported.value))
        worst = exported.value - slack if metric.maximise else exported.value + slack
    else:
        worst = low if metric.maximise else high
    if metric.gain(value) < metric.gain(worst) - 1e-9:
        raise Disagreement(
            f"{metric.name} {metric.text(value)} on {count} {metric.samples}, when it was exported "
            f"{metric.text(exported.value)}, allowed {metric.text(worst)}"
        )


def check_tensors(model: Runnable, sessions: Sessions, sample: TensorSample) -> float:
    """Return how far the outputs of all parts on the sample are from the expected ones.

    Raises `Disagreement` if that is too far.
    """
    tolerance, largest = ALLOWED[model.artefact.precision], 0.0
    assert tolerance.allowed is not None
    for part, right in sample.expected(model.path.name).items():
        for expected, found in zip(right, outputs_of(sessions[part], sample.inputs[part]), strict=True):
            largest = max(largest, float(difference(expected, found).max()))
    if not largest <= tolerance.allowed:
        raise Disagreement(
            f"outputs on the sample differ from those when it was exported by up to {largest:.2g}, allowed "
            f"{tolerance.allowed:g}"
        )
    return largest
