"""Accuracy of the smallest, the largest and some random sub-networks while the supernet is trained."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

from torch import Tensor

from nasdeploy.core.arch import Arch
from nasdeploy.data.batches import CalibrationBatches, calibration_batches, evaluation_batches
from nasdeploy.data.images import ImageSets
from nasdeploy.data.settings import DataSettings
from nasdeploy.supernet.evaluate import Evaluator, Score
from nasdeploy.supernet.settings import RecalibrationSettings
from nasdeploy.supernet.supernet import Supernet

Batch = tuple[Tensor, Tensor]


class ValidationStopped(Exception):
    """The process was asked to stop before all networks were scored."""


@dataclass
class Validation:
    """Scores a fixed set of architectures, by name, on validation images after recalibration."""

    archs: dict[str, Arch]
    sets: ImageSets
    data: DataSettings
    recalibration: RecalibrationSettings
    seed: int
    _calibration: CalibrationBatches | None = None

    def __call__(self, supernet: Supernet, asked_to_stop: Callable[[], bool]) -> dict[str, dict[str, Any]]:
        """Top-1 with its standard error, cross-entropy (or None) and number of images, by the architectures' names.

        Raises `ValidationStopped` before the next batch when the process is asked to stop: who is given half a minute
        to leave cannot wait for the end.
        """
        if self._calibration is None:
            size, count = self.recalibration.batch_size, self.recalibration.search_batches
            calibration = calibration_batches(self.sets.train, self.data, size, count, self.seed)
            self._calibration = calibration.to(next(supernet.parameters()).device)
        calibration, size = self._calibration, self.recalibration.batch_size
        evaluator = Evaluator(
            supernet,
            lambda side: calibration,
            lambda side, first, end: _until(asked_to_stop, evaluation_batches(self.sets.val, self.data, size)),
        )
        scores = {name: evaluator(arch) for name, arch in self.archs.items()}
        return {name: _plain(score) for name, score in scores.items()}


def _until(asked_to_stop: Callable[[], bool], batches: Iterator[Batch]) -> Iterator[Batch]:
    for batch in batches:
        if asked_to_stop():
            raise ValidationStopped
        yield batch


def _plain(score: Score) -> dict[str, Any]:
    # Of a network that has diverged it may be no number, which JSON does not know.
    loss = score.cross_entropy if isfinite(score.cross_entropy) else None
    return {**asdict(score), "cross_entropy": loss, "top1_error": score.top1_error}


def mean_top1(scores: dict[str, dict[str, Any]]) -> float:
    """Mean accuracy of the validated networks: what the best checkpoint is best in."""
    return sum(float(score["top1"]) for score in scores.values()) / len(scores)
