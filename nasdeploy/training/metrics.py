"""What a training run tells of its epochs: the scores of some sub-networks, and the file of all metrics."""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import Tensor

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.score import Score
from nasdeploy.core.settings import Settings
from nasdeploy.data.batches import CalibrationBatches, calibration_batches, evaluation_batches
from nasdeploy.data.images import ImageSets
from nasdeploy.data.settings import DataSettings
from nasdeploy.store.files import append_json_line, disk_full_named, read_json_lines, write_text
from nasdeploy.store.records import parse_record
from nasdeploy.supernet.evaluate import Evaluator
from nasdeploy.supernet.settings import RecalibrationSettings
from nasdeploy.supernet.supernet import Supernet

Metrics = dict[str, Any]
"""The metrics of one epoch, as they stand in a line of the file."""
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
        """Return the scores by the architectures' names, as plain values; a loss that is no number is None.

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
    # The loss of a network that has diverged may be no number, which JSON does not know.
    loss, metric = score.loss if isfinite(score.loss) else None, score.metric
    return {
        metric.key: score.value,
        metric.loss_key: loss,
        metric.samples: score.samples,
        metric.error_key: score.error,
    }


def mean_top1(scores: dict[str, dict[str, Any]]) -> float:
    """Return the mean accuracy of the validated networks: what the best checkpoint is best in."""
    return sum(float(score["top1"]) for score in scores.values()) / len(scores)


class _ScoreLine(Settings, extra="allow"):
    top1: float


class _MetricsLine(Settings, extra="allow"):
    """What has to be in a line that is read back; the rest is for people."""

    epoch: int = Field(ge=1)
    validation: dict[str, _ScoreLine] | None = Field(default=None, min_length=1)


@dataclass(frozen=True)
class MetricsFile:
    """The file `metrics.jsonl` of a run: a JSON line for each finished epoch."""

    path: Path

    def lines(self) -> list[Metrics]:
        """Return all lines, the oldest first; raises `UserError` naming one that is damaged."""
        lines = read_json_lines(self.path)
        for number, line in enumerate(lines, start=1):
            parse_record(_MetricsLine, line, Path(f"{self.path}: line {number}"), "damaged; remove that line")
        return lines

    def keep(self, epochs: int) -> None:
        """Drop the line of an epoch that was cut off between its metrics and its checkpoint, and is run again."""
        kept = [line for line in self.lines() if line["epoch"] <= epochs]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def append(self, metrics: Metrics) -> None:
        """Keep the metrics of one more epoch, also through a power cut: its checkpoint comes after and survives one."""
        append_json_line(self.path, metrics)
        with disk_full_named(self.path), self.path.open("rb") as file:
            os.fsync(file.fileno())

    def of(self, epoch: int) -> Metrics:
        """Return the metrics of an epoch; raises `UserError` if they are lost."""
        for line in self.lines():
            if line["epoch"] == epoch:
                return line
        raise UserError(
            f"{self.path}: the line of epoch {epoch} is lost; restore it, or delete that epoch's checkpoint so that it "
            "is run again"
        )

    def best_epoch(self) -> int | None:
        """Return the epoch with the best mean score of the validated networks, the first of equals; None before any."""
        validated = [line for line in self.lines() if line.get("validation")]
        return max(validated, key=lambda line: mean_top1(line["validation"]))["epoch"] if validated else None
