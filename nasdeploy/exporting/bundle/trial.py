"""The gate once more, on the machine where a bundle has arrived: its models against what the export found. Torch-free.

PyTorch and the network are not there any more. A model has to give the outputs on the sample that it gave when it was
exported, and on test images the accuracy that it had.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL.Image import Image, fromarray

from nasdeploy.exporting.bundle.opening import Runnable
from nasdeploy.exporting.bundle.pictures import prepare
from nasdeploy.exporting.bundle.sample import Sample
from nasdeploy.exporting.difference import Disagreement, difference, logits_of
from nasdeploy.exporting.figures import TOLERANCE, TOLERANCES, Accuracy, Tolerance
from nasdeploy.exporting.manifest import Embedded, ExportManifest
from nasdeploy.runtimes.runtime import Precision, Session

ALLOWED: Mapping[Precision, Tolerance] = {**TOLERANCES, "int8": Tolerance(allowed=0.05, scale="spread")}
"""Between a model's outputs here and when it was exported. In int8 processors differ in where they round."""

_SAME_IMAGES = 0.005
"""Part of the test images that rounding may move to another class."""


@dataclass(frozen=True)
class Found:
    """Of a model: what is wrong, one line each, and the figures as far as it came."""

    model: str
    problems: tuple[str, ...] = ()
    not_run: str | None = None
    difference: float | None = None
    """Of its outputs on the sample from those when it was exported, by the scale of its precision."""
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
        """As plain values."""
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
    """The same for a model that preprocesses by itself, given the sample's picture."""
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
