"""How far a model file is from the network that it was made from."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from nasdeploy.data.batches import evaluation_batches
from nasdeploy.data.decode import UnreadableImage
from nasdeploy.data.images import Images
from nasdeploy.data.preprocessing import Preprocessing
from nasdeploy.data.settings import DataSettings
from nasdeploy.data.transforms import prepare
from nasdeploy.errors import one_line
from nasdeploy.export.figures import TOLERANCE, Accuracy, Agreement
from nasdeploy.nn.network import Network
from nasdeploy.nn.rescale import rescale
from nasdeploy.progress import Progress
from nasdeploy.runtimes.runtime import Array, Session

BATCHES = (1, 2, 7, 32)
_TEST_BATCH = 64


class Disagreement(Exception):
    """The file does not compute what its network computes; the text says where."""


@dataclass(frozen=True)
class Reference:
    """What a file has to agree with: a network in evaluation mode on the CPU, and test images."""

    network: Network
    preprocessing: Preprocessing
    images: Images
    data: DataSettings

    def prepared(self, indices: Iterable[int]) -> Tensor:
        """The images at `indices`, read anew and prepared as the manifest says; without those that may be skipped."""
        pictures: list[Image] = []
        for index in indices:
            try:
                pictures.append(self.images.image(index))
            except UnreadableImage:
                if self.data.on_unreadable == "stop":
                    raise
        return prepare(self.preprocessing, pictures)

    def logits(self, inputs: Tensor) -> Array:
        """PyTorch's logits `[N, classes]`; raises `Disagreement` if they are no numbers."""
        with torch.no_grad():
            logits: Array = self.network(inputs).numpy()
        if not np.isfinite(logits).all():
            raise Disagreement("PyTorch's own logits are not finite: recalibrate, or train further")
        return logits


def difference(expected: Array, found: Array) -> Array:
    """For each row of two arrays `[N, ...]` the largest difference, relative where `expected` exceeds 1.

    max |found - expected| / max(1, max |expected|): float32 keeps seven digits, so rounding grows with the numbers.
    Raises `Disagreement` for different shapes.
    """
    if found.shape != expected.shape:
        raise Disagreement(f"output of shape {list(found.shape)}, expected {list(expected.shape)}")
    distance = np.abs(found - expected).reshape(len(expected), -1).max(axis=1)
    scale = np.abs(expected).reshape(len(expected), -1).max(axis=1)
    rows: Array = distance / np.maximum(1.0, scale)
    return rows


def compare_batches(session: Session, reference: Reference) -> Agreement:
    """Logits of the file beside PyTorch's at several batch sizes, on images from all over the test set.

    Raises `Disagreement` if they differ by more than the tolerance.
    """
    count = len(reference.images)
    indices = np.linspace(0, count - 1, min(count, max(BATCHES))).round().astype(int)
    inputs = reference.prepared(indices.tolist())
    sizes = sorted({min(size, len(inputs)) for size in BATCHES})
    largest = 0.0
    for size in sizes:
        expected = reference.logits(inputs[:size])
        rows = difference(expected, _run(session, inputs[:size]))
        largest = max(largest, _within(rows, f"logits in a batch of {size}"))
    return Agreement(batches=tuple(sizes), difference=largest)


def compare_test_set(session: Session, reference: Reference, progress: Progress) -> Accuracy:
    """Top-1 of the file on all test images, read from their files by the manifest's preprocessing, beside PyTorch's.

    PyTorch sees the images as evaluation reads them, so that a preprocessing that differs is found too. Raises
    `Disagreement` if the inputs, or the logits of any image, differ by more than the tolerance: top-1 can then differ
    by ties only.
    """
    images, tally = reference.images, _Tally()
    side = reference.preprocessing.resolution
    starts = range(0, len(images), _TEST_BATCH)
    batches = evaluation_batches(images, reference.data, _TEST_BATCH)
    with progress.task("test images", len(images)) as task:
        for start, (pixels, labels) in zip(starts, batches, strict=True):
            evaluated = rescale(pixels, side)
            inputs = reference.prepared(range(start, min(start + _TEST_BATCH, len(images))))
            _within(difference(evaluated.numpy(), inputs.numpy()), "inputs made by the manifest's preprocessing")
            tally.add(labels.numpy(), reference.logits(evaluated), _run(session, inputs))
            task.advance(len(labels))
    return tally.accuracy()


def _run(session: Session, inputs: Tensor) -> Array:
    (name,) = session.inputs
    try:
        (logits,) = session.run({name: inputs.numpy()})
    # Every runtime has errors of its own.
    except Exception as error:
        raise Disagreement(f"a batch of {len(inputs)} stops the runtime: {one_line(error)}") from None
    return logits


def _within(rows: Array, what: str) -> float:
    """The largest of the differences; raises `Disagreement` if it is beyond the tolerance or no number."""
    largest = float(rows.max())
    if not largest <= TOLERANCE:
        raise Disagreement(f"{what} differ from PyTorch's by up to {largest:.2g}, allowed {TOLERANCE:g}")
    return largest


class _Tally:
    """Counts over the batches of a test set."""

    def __init__(self) -> None:
        self._rows: list[Array] = []
        self._correct = self._correct_pytorch = self._changed = 0

    def add(self, labels: Array, expected: Array, found: Array) -> None:
        self._rows.append(difference(expected, found))
        classes, classes_pytorch = found.argmax(axis=1), expected.argmax(axis=1)
        self._correct += int((classes == labels).sum())
        self._correct_pytorch += int((classes_pytorch == labels).sum())
        self._changed += int((classes != classes_pytorch).sum())

    def accuracy(self) -> Accuracy:
        """The figures; raises `Disagreement`."""
        rows = np.concatenate(self._rows)
        beyond = int((~(rows <= TOLERANCE)).sum())
        largest = _within(
            rows,
            f"logits of {beyond} of {len(rows)} test images, of which {self._changed} get another class,",
        )
        return Accuracy(
            images=len(rows),
            top1=self._correct / len(rows),
            interval=wilson(self._correct, len(rows)),
            top1_pytorch=self._correct_pytorch / len(rows),
            changed=self._changed,
            difference=largest,
        )


def wilson(correct: int, images: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion."""
    from scipy.stats import binomtest

    interval = binomtest(correct, images).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
