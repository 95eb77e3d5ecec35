"""Whether a model file computes what its network computes: PyTorch's answers, and how far the file's are from them.

`Reference` is the network in PyTorch with the test images, `Yardstick` measures differences by the tolerance of a
precision. `compare_batches` looks at several batch sizes, `compare_test_set` at the accuracy on all test images.
"""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from nasdeploy.core.errors import one_line
from nasdeploy.core.progress import Progress
from nasdeploy.data.batches import evaluation_batches
from nasdeploy.data.images import Images
from nasdeploy.data.preprocessing import Preprocessing
from nasdeploy.data.settings import DataSettings
from nasdeploy.data.transforms import prepare
from nasdeploy.exporting.record import TOLERANCE, TOLERANCES, Accuracy, Agreement, ClassAccuracy, Tolerance
from nasdeploy.nn.functional import rescale
from nasdeploy.nn.network import Network
from nasdeploy.runtimes.runtime import Array, Precision, Session


class Disagreement(Exception):
    """The file does not compute what its network computes; the text says where."""


def difference(expected: Array, found: Array, spread: float | None = None) -> Array:
    """Return for each row of two arrays `[N, ...]` the largest difference, as a part of `spread` if that is given.

    Without it: max |found - expected| / max(1, max |expected|), since float32 keeps seven digits, so that rounding
    grows with the numbers. Raises `Disagreement` for different shapes.
    """
    if found.shape != expected.shape:
        raise Disagreement(f"output of shape {list(found.shape)}, expected {list(expected.shape)}")
    distance = np.abs(found - expected).reshape(len(expected), -1).max(axis=1)
    scale = np.abs(expected).reshape(len(expected), -1).max(axis=1)
    rows: Array = distance / (np.maximum(1.0, scale) if spread is None else spread)
    return rows


def within(rows: Array, allowed: float | None, what: str, unit: str = "") -> float:
    """The largest of the differences; raises `Disagreement` if it is more than allowed, or no number."""
    largest = float(rows.max())
    if not np.isfinite(largest) or (allowed is not None and largest > allowed):
        limit = "" if allowed is None else f", allowed {allowed:g}"
        raise Disagreement(f"{what} from PyTorch's by up to {largest:.2g}{unit}{limit}")
    return largest


@dataclass(frozen=True)
class Yardstick:
    """Measures differences of logits for a precision."""

    tolerance: Tolerance
    spread: float
    """Largest minus smallest of PyTorch's logits on some images."""

    @classmethod
    def of(cls, precision: Precision, logits: Array) -> "Yardstick":
        """Return the yardstick for a precision, by PyTorch's logits on some images."""
        return cls(TOLERANCES[precision], max(float(np.ptp(logits)), float(np.finfo(np.float32).tiny)))

    def rows(self, expected: Array, found: Array) -> Array:
        """The difference of each row; raises `Disagreement` for different shapes."""
        return difference(expected, found, None if self.tolerance.scale == "value" else self.spread)

    def within(self, rows: Array, what: str) -> float:
        """The largest difference; raises `Disagreement`, which begins with `what`, if it is not allowed."""
        unit = "" if self.tolerance.scale == "value" else " of their spread"
        return within(rows, self.tolerance.allowed, what, unit)

    def beyond(self, rows: Array) -> int:
        """How many rows are not within the tolerance."""
        allowed = np.inf if self.tolerance.allowed is None else self.tolerance.allowed
        return int((~(rows <= allowed)).sum())


def logits_of(session: Session, inputs: Array) -> Array:
    """The file's logits `[N, classes]` of images; raises `Disagreement` if the runtime does not get that far."""
    (name,) = session.inputs
    try:
        (logits,) = session.run({name: inputs})
    # Every runtime has errors of its own.
    except Exception as error:
        raise Disagreement(f"a batch of {len(inputs)} stops the runtime: {one_line(error)}") from None
    return logits


SAMPLE = 32
"""Test images that are looked at first."""
_TEST_BATCH = 32


@dataclass(frozen=True)
class TestBatch:
    """Some test images, and what PyTorch makes of them."""

    inputs: Array
    """`[N, 3, side, side]`, prepared as the manifest says."""
    labels: Array
    logits: Array


@dataclass(frozen=True)
class Reference:
    """A network in evaluation mode on the CPU, and test images."""

    network: Network
    preprocessing: Preprocessing
    images: Images
    data: DataSettings
    unreadable: int = 0
    """Test images that are not among them, because they cannot be read."""
    _known: list[tuple[Array, Array]] = field(default_factory=list, init=False, repr=False, compare=False)
    """Labels and logits of the test set, once they are known: several files are compared with them."""

    @cached_property
    def _fast(self) -> Network:
        """Put the network in channels-last layout, in which it takes about 0.7 of the time on a CPU.

        Exporters want the other one.
        """
        return deepcopy(self.network).to(memory_format=torch.channels_last)

    def prepared(self, indices: Iterable[int]) -> Tensor:
        """The images at `indices`, read anew and prepared as the manifest says."""
        return prepare(self.preprocessing, [self.images.image(index) for index in indices])

    def logits(self, inputs: Tensor) -> Array:
        """PyTorch's logits `[N, classes]`; raises `Disagreement` if they are no numbers."""
        with torch.no_grad():
            logits: Array = self._fast(inputs.to(memory_format=torch.channels_last)).numpy()
        if not np.isfinite(logits).all():
            raise Disagreement("PyTorch's own logits are not finite: recalibrate, or train further")
        return logits

    def sample(self) -> Tensor:
        """Images from all over the test set, at most `SAMPLE`."""
        count = len(self.images)
        indices = np.linspace(0, count - 1, min(count, SAMPLE)).round().astype(int)
        return self.prepared(indices.tolist())

    def test_set(self) -> Iterator[TestBatch]:
        """All test images in order, read from their files by the manifest's preprocessing.

        PyTorch sees them as evaluation reads them. Raises `Disagreement` if the two differ.
        """
        places = [range(at, min(at + _TEST_BATCH, len(self.images))) for at in range(0, len(self.images), _TEST_BATCH)]
        if self._known:
            for place, (labels, logits) in zip(places, self._known, strict=True):
                yield TestBatch(self.prepared(place).numpy(), labels, logits)
            return
        found = []
        batches = evaluation_batches(self.images, self.data, _TEST_BATCH)
        for place, (pixels, truth) in zip(places, batches, strict=True):
            evaluated, inputs = rescale(pixels, self.preprocessing.resolution), self.prepared(place).numpy()
            within(
                difference(evaluated.numpy(), inputs), TOLERANCE, "inputs made by the manifest's preprocessing differ"
            )
            found.append((truth.numpy(), self.logits(evaluated)))
            yield TestBatch(inputs, *found[-1])
        self._known.extend(found)


BATCHES = (1, 2, 7, SAMPLE, SAMPLE + 1)
"""Some runtimes choose another way of computing from a power of 2 on."""


def compare_batches(
    session: Session, reference: Reference, yardstick: Yardstick, largest_batch: int | None = None
) -> Agreement:
    """Logits of the file beside PyTorch's at several batch sizes, on images from all over the test set.

    The first size is tried again after the others. Raises `Disagreement` if they differ by more than the tolerance.
    """
    inputs = reference.sample()
    expected, images = reference.logits(inputs), inputs.numpy()
    sizes = tuple(size for size in BATCHES if largest_batch is None or size <= largest_batch)
    largest = 0.0
    for size in (*sizes, sizes[0]):
        # There may be fewer images.
        places = np.arange(size) % len(images)
        rows = yardstick.rows(expected[places], logits_of(session, images[places]))
        largest = max(largest, yardstick.within(rows, f"logits in a batch of {size} differ"))
    return Agreement(batches=sizes, difference=largest, tolerance=yardstick.tolerance)


_TOP = 5


def compare_test_set(session: Session, reference: Reference, yardstick: Yardstick, progress: Progress) -> Accuracy:
    """Accuracy of the file on all test images, read from their files by the manifest's preprocessing.

    Raises `Disagreement` if the logits of any image differ by more than the tolerance: in fp32 top-1 can then differ by
    ties only.
    """
    tally = _Tally(yardstick, reference.unreadable)
    with progress.task("test images", len(reference.images)) as task:
        for batch in reference.test_set():
            tally.add(batch.labels, batch.logits, logits_of(session, batch.inputs))
            task.advance(len(batch.labels))
    return tally.accuracy()


class _Tally:
    """What is kept of each test image."""

    def __init__(self, yardstick: Yardstick, unreadable: int) -> None:
        self._yardstick, self._unreadable = yardstick, unreadable
        self._rows: list[Array] = []
        self._labels: list[Array] = []
        self._ranks: list[Array] = []
        self._ranks_pytorch: list[Array] = []
        self._changed = self._classes = 0

    def add(self, labels: Array, expected: Array, found: Array) -> None:
        self._rows.append(self._yardstick.rows(expected, found))
        self._labels.append(labels)
        self._ranks.append(_ranks(found, labels))
        self._ranks_pytorch.append(_ranks(expected, labels))
        self._changed += int((found.argmax(axis=1) != expected.argmax(axis=1)).sum())
        self._classes = expected.shape[1]

    def accuracy(self) -> Accuracy:
        """The figures; raises `Disagreement`."""
        rows, labels = np.concatenate(self._rows), np.concatenate(self._labels)
        ranks, ranks_pytorch = np.concatenate(self._ranks), np.concatenate(self._ranks_pytorch)
        beyond = self._yardstick.beyond(rows)
        what = f"logits of {beyond} of {len(rows)} test images, of which {self._changed} get another class, differ"
        accuracy = Accuracy(
            images=len(rows),
            unreadable=self._unreadable,
            top1=float((ranks < 1).mean()),
            interval=wilson(int((ranks < 1).sum()), len(rows)),
            top1_pytorch=float((ranks_pytorch < 1).mean()),
            classes=tuple(
                ClassAccuracy(
                    images=int((labels == label).sum()),
                    correct=int((ranks[labels == label] < 1).sum()),
                    correct_pytorch=int((ranks_pytorch[labels == label] < 1).sum()),
                )
                for label in range(self._classes)
            ),
            changed=self._changed,
            difference=self._yardstick.within(rows, what),
        )
        if self._classes <= _TOP:
            return accuracy
        hits = int((ranks < _TOP).sum())
        top5 = {
            "top5": hits / len(rows),
            "top5_interval": wilson(hits, len(rows)),
            "top5_pytorch": float((ranks_pytorch < _TOP).mean()),
        }
        return accuracy.model_copy(update=top5)


def _ranks(logits: Array, labels: Array) -> Array:
    """Place of each label in the order of its logits `[N, classes]`, from 0; of equal logits the first class leads."""
    order = np.argsort(-logits, axis=1, kind="stable")
    ranks: Array = (order == labels[:, None]).argmax(axis=1)
    return ranks


def wilson(correct: int, images: int) -> tuple[float, float]:
    """Wilson's 95 % score interval of a proportion."""
    from scipy.stats import binomtest

    interval = binomtest(correct, images).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
