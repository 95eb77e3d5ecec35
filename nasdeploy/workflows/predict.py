"""Classes of image files by an exported model, as a table."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nasdeploy.core.errors import UserError
from nasdeploy.core.escaping import cell
from nasdeploy.core.progress import Progress
from nasdeploy.exporting.bundle.pictures import Refused, image_files, prepare, read_rgb
from nasdeploy.exporting.bundle.predict import probabilities
from nasdeploy.exporting.bundle.verify import first_runnable
from nasdeploy.exporting.bundle.write import load_bundle
from nasdeploy.exporting.manifest import ExportManifest
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Session


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
