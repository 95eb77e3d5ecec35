"""The score of a model file on the whole test set, beside PyTorch's, as the manifest of an export keeps it. Torch-free.

`FileScore` is that of any task. `Accuracy` is that of the classification of images, which has more to say.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from nasdeploy.core.score import Metric
from nasdeploy.core.settings import Settings
from nasdeploy.runtimes.runtime import Array
from nasdeploy.tasks.metrics import TOP1

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Difference = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=1)]
Tally = Annotated[int, Field(ge=0)]

_TOP = 5


class FileScore(Settings):
    """The score of a file on the whole test set, and PyTorch's on the same samples."""

    metric: Metric
    """What was scored, and in which direction it is better."""
    samples: Count
    """The number of samples."""
    unreadable: Tally = 0
    """The number of test samples beside these that were left out, because they cannot be read."""
    value: float
    """The score of the file."""
    error: Annotated[float, Field(ge=0.0)]
    """The standard error of `value`."""
    value_pytorch: float
    """The score of the network that the file was made from."""
    difference: Difference
    """The largest difference of outputs over all samples, in terms of the tolerance's scale."""

    @property
    def interval(self) -> tuple[float, float]:
        """The value less and plus 1.96 standard errors, which holds the true one with 95 %."""
        return self.value - 1.96 * self.error, self.value + 1.96 * self.error

    @property
    def drop(self) -> float:
        """How much worse the file is than PyTorch, in the unit that is shown; negative if it is better."""
        return self.metric.lost(self.value, self.value_pytorch)


class ClassAccuracy(Settings):
    """The accuracy on the images of one class, in the order of the labels."""

    images: Tally
    """The number of test images of the class."""
    correct: Tally
    """The number of these that the file classifies rightly."""
    correct_pytorch: Tally
    """The number of these that PyTorch classifies rightly."""


class Accuracy(Settings):
    """The accuracy of a classifier's file on the test set, read from image files by the manifest's preprocessing."""

    images: Count
    """The number of test images."""
    unreadable: Tally = 0
    """The number of test images beside these that were left out, because they cannot be read."""
    top1: Fraction
    """The part of the images that the file classifies rightly."""
    interval: tuple[Fraction, Fraction]
    """Wilson's score interval of `top1` at 95 %."""
    top1_pytorch: Fraction
    """The accuracy of the network that the file was made from, on the same images as a search reads them."""
    top5: Fraction | None = None
    """The part of the images whose label is among the first five; like the next two None for five classes or fewer."""
    top5_interval: tuple[Fraction, Fraction] | None = None
    """Wilson's score interval of `top5` at 95 %."""
    top5_pytorch: Fraction | None = None
    """The part of the images whose label is among the first five of the network that the file was made from."""
    classes: tuple[ClassAccuracy, ...] = ()
    """The accuracy on each class, in the order of the labels."""
    changed: Tally
    """The number of images whose class differs from PyTorch's: in fp32 ties within the tolerance."""
    difference: Difference
    """The largest difference of logits over all images, in terms of the tolerance's scale."""

    @property
    def metric(self) -> Metric:
        """What was scored."""
        return TOP1

    @property
    def samples(self) -> int:
        """The number of images."""
        return self.images

    @property
    def value(self) -> float:
        """The score of the file."""
        return self.top1

    @property
    def value_pytorch(self) -> float:
        """The score of the network that the file was made from."""
        return self.top1_pytorch

    @property
    def drop(self) -> float:
        """How many points the file loses against PyTorch; negative if it gains."""
        return self.metric.lost(self.top1, self.top1_pytorch)


ProvenScore = Accuracy | FileScore
"""What a proof keeps of the test set."""


class AccuracyTally:
    """Counts, over batches of test images, what the file and PyTorch get right."""

    def __init__(self) -> None:
        self.changed = 0
        """The number of images so far that the two put into different classes."""
        self._labels: list[Array] = []
        self._ranks: list[Array] = []
        self._ranks_pytorch: list[Array] = []
        self._classes = 0

    def add(self, labels: Array, expected: Array, found: Array) -> None:
        """Count a batch of labels `[N]`, with PyTorch's logits and the file's `[N, classes]`."""
        self._labels.append(labels)
        self._ranks.append(_ranks(found, labels))
        self._ranks_pytorch.append(_ranks(expected, labels))
        self.changed += int((found.argmax(axis=1) != expected.argmax(axis=1)).sum())
        self._classes = expected.shape[1]

    def accuracy(self, unreadable: int, difference: float) -> Accuracy:
        """Return the figures; `difference` is the largest of the logits."""
        labels = np.concatenate(self._labels)
        ranks, ranks_pytorch = np.concatenate(self._ranks), np.concatenate(self._ranks_pytorch)
        accuracy = Accuracy(
            images=len(labels),
            unreadable=unreadable,
            top1=float((ranks < 1).mean()),
            interval=wilson(int((ranks < 1).sum()), len(labels)),
            top1_pytorch=float((ranks_pytorch < 1).mean()),
            classes=tuple(
                ClassAccuracy(
                    images=int((labels == label).sum()),
                    correct=int((ranks[labels == label] < 1).sum()),
                    correct_pytorch=int((ranks_pytorch[labels == label] < 1).sum()),
                )
                for label in range(self._classes)
            ),
            changed=self.changed,
            difference=difference,
        )
        if self._classes <= _TOP:
            return accuracy
        hits = int((ranks < _TOP).sum())
        top5 = {
            "top5": hits / len(labels),
            "top5_interval": wilson(hits, len(labels)),
            "top5_pytorch": float((ranks_pytorch < _TOP).mean()),
        }
        return accuracy.model_copy(update=top5)


def _ranks(logits: Array, labels: Array) -> Array:
    """Return the place of each label in the order of its logits `[N, classes]`, from 0; of equals the first leads."""
    order = np.argsort(-logits, axis=1, kind="stable")
    ranks: Array = (order == labels[:, None]).argmax(axis=1)
    return ranks


def wilson(correct: int, images: int) -> tuple[float, float]:
    """Return Wilson's 95 % score interval of a proportion."""
    from scipy.stats import binomtest

    interval = binomtest(correct, images).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
