"""Accuracy of a model file on the test images, beside PyTorch's."""

import numpy as np

from nasdeploy.core.progress import Progress
from nasdeploy.exporting.difference import Yardstick, logits_of
from nasdeploy.exporting.figures import Accuracy, ClassAccuracy
from nasdeploy.exporting.reference import Reference
from nasdeploy.runtimes.runtime import Array, Session

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
