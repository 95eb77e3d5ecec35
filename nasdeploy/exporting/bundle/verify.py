"""A bundle tried on the machine where it has arrived: opening its models, and the gate once more. Torch-free.

PyTorch and the network are not there any more. A model has to give the outputs on the bundle's sample that it gave when
it was exported, and on test images the accuracy that it had.
"""

import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image, Resampling, fromarray

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.core.registry import lookup
from nasdeploy.data.preprocessing import Preprocessing
from nasdeploy.exporting.bundle.pictures import prepare
from nasdeploy.exporting.bundle.predict import SAMPLE
from nasdeploy.exporting.compare import Disagreement, difference, logits_of
from nasdeploy.exporting.formats import FORMATS
from nasdeploy.exporting.formats.format import Format
from nasdeploy.exporting.jobs import device_for
from nasdeploy.exporting.manifest import Artefact, Embedded, ExportManifest
from nasdeploy.exporting.record import TOLERANCE, TOLERANCES, Accuracy, Tolerance
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Array, Precision, Session


@dataclass(frozen=True)
class Runnable:
    """A model of a bundle that runs on this machine."""

    path: Path
    artefact: Artefact
    form: Format
    device: Device

    @contextmanager
    def opened(self) -> Iterator[Session]:
        """A session, closed afterwards; raises `UserError` if the runtime refuses the file."""
        session = self.form.open(self.path, self.device)
        try:
            yield session
        finally:
            session.close()


def runnable(folder: Path, artefact: Artefact, device: Device | None = None) -> Runnable:
    """A model on `device`, by default the one that it was exported for; raises `UserError` if it cannot run there."""
    form = lookup("format", FORMATS, artefact.format)
    reason = form.not_run(artefact.capabilities)
    if reason is not None:
        raise UserError(f"{folder / artefact.file.name}: cannot run here ({reason})")
    target = artefact.device if device is None else device_for(form, device, artefact.precision)
    runtime_of(target)
    return Runnable(folder / artefact.file.name, artefact, form, target)


def first_runnable(folder: Path, manifest: ExportManifest, device: Device | None = None) -> Runnable:
    """The bundle's first model that runs here, of those for `device` if that is given.

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
    """The logits of each model that was run when it was exported, by the name of its file."""

    def save(self, folder: Path) -> None:
        """Write `sample.npz`; equal samples give equal bytes."""
        outputs = {_OF + name: output for name, output in self.outputs.items()}
        arrays = {"pixels": self.pixels, "input": self.input, "logits": self.logits, **outputs}
        np.savez_compressed(folder / SAMPLE, allow_pickle=False, **arrays)

    @classmethod
    def load(cls, folder: Path) -> "Sample":
        """What `save` wrote; raises `UserError` if it is missing or damaged."""
        path = folder / SAMPLE
        try:
            with np.load(path, allow_pickle=False) as found:
                arrays = dict(found)
            outputs = {name.removeprefix(_OF): arrays[name] for name in arrays if name.startswith(_OF)}
            sample = cls(arrays["pixels"], arrays["input"], arrays["logits"], outputs)
        except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zipfile.error) as error:
            raise UserError(f"{path}: cannot be read ({one_line(error)}); export again") from None
        shapes = (sample.pixels.ndim, sample.input.ndim, sample.logits.ndim)
        if sample.pixels.dtype != np.uint8 or shapes != (3, 4, 2):
            raise UserError(f"{path}: no sample of an exported model; export again")
        return sample


def make_sample(preprocessing: Preprocessing, network: Callable[[Array], Array]) -> Sample:
    """The sample of a `network` from inputs to logits, with something to do for each step of `preprocessing`."""
    pixels = np.asarray(sample_picture(preprocessing.resize))
    inputs = prepare(fromarray(pixels), preprocessing.model_dump())
    return Sample(pixels, inputs, network(inputs))


def sample_picture(shorter_side: int) -> Image:
    """A smooth RGB picture of random colours, always the same, a little larger than what is cut out of it."""
    grain = np.random.default_rng(0).integers(0, 256, (_GRAIN, _GRAIN, 3), dtype=np.uint8)
    size = (shorter_side + shorter_side // 3 + 1, shorter_side + shorter_side // 8 + 1)
    return fromarray(grain).resize(size, Resampling.BICUBIC)


ALLOWED: Mapping[Precision, Tolerance] = {**TOLERANCES, "int8": Tolerance(allowed=0.05, scale="spread")}
"""The largest differences between a model's outputs here and when it was exported.

In int8 processors differ in where they round.
"""

_SAME_IMAGES = 0.005
"""Part of the test images that rounding may move to another class."""


@dataclass(frozen=True)
class Found:
    """The result of a model: what is wrong, one line each, and the figures as far as it came."""

    model: str
    problems: tuple[str, ...] = ()
    not_run: str | None = None
    difference: float | None = None
    """The difference of its outputs on the sample from those when it was exported, by the scale of its precision."""
    images: int | None = None
    unreadable: int = 0
    """Test images beside these that were left out, because they cannot be read."""
    top1: float | None = None
    top1_exported: float | None = None
    median_ms: float | None = None
    median_ms_exported: float | None = None
    images_per_s: float | None = None
    """Done back to back."""
    gap_ms: float | None = None
    after_gaps_ms: float | None = None
    """The median after gaps of `gap_ms`, as when it was exported."""
    after_gaps_ms_exported: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def check_inputs(manifest: ExportManifest, sample: Sample) -> None:
    """Raise `Disagreement` unless preprocessing here makes of the sample what it made where it was exported."""
    inputs = prepare(fromarray(sample.pixels), manifest.preprocessing.model_dump())
    largest = float(difference(sample.input, inputs).max())
    if not largest <= TOLERANCE:
        raise Disagreement(f"the sample's input, made here, differs by up to {largest:.2g}, allowed {TOLERANCE:g}")


def check_outputs(model: Runnable, session: Session, sample: Sample) -> float:
    """How far the model's outputs on the sample are from the expected; raises `Disagreement` if that is too far."""
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
    """Check the outputs of a model that preprocesses by itself, given the sample's picture."""
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
    """How many of the images get their label, and how many there are."""
    steps, correct, count = manifest.preprocessing.model_dump(), 0, 0
    for picture, label in images:
        correct += int(logits_of(session, prepare(picture, steps)).argmax()) == label
        count += 1
    return correct, count


def check_accuracy(correct: int, count: int, exported: Accuracy | None) -> None:
    """Raise `Disagreement` for a top-1 that the export's figures do not allow.

    On as many images as then, it may differ by rounding only; other images have to reach its interval.
    """
    if exported is None:
        return
    top1 = correct / count
    same = count == exported.images
    lowest = exported.top1 - max(_SAME_IMAGES, 1 / count) if same else exported.interval[0]
    if top1 < lowest - 1e-9:
        raise Disagreement(
            f"top-1 {100 * top1:.2f} % on {count} images, when it was exported {100 * exported.top1:.2f} %, allowed "
            f"{100 * lowest:.2f} %"
        )
