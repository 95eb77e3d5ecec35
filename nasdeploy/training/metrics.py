"""What a training run tells of its epochs: the scores of some sub-networks, and the file of all metrics."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from pydantic import Field

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import Plan
from nasdeploy.core.score import Metric, Score
from nasdeploy.core.settings import Settings
from nasdeploy.store.files import append_json_line, disk_full_named, read_json_lines, write_text
from nasdeploy.store.records import parse_record
from nasdeploy.supernet.evaluate import Evaluator
from nasdeploy.supernet.settings import RecalibrationSettings
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.tasks.task import Batch, CalibrationInputs, Task, TaskData

Metrics = dict[str, Any]
"""The metrics of one epoch, as they stand in a line of the file."""


class ValidationStopped(Exception):
    """The process was asked to stop before all networks were scored."""


class Validation:
    """Scores a fixed set of architectures, by name, on validation samples after recalibration."""

    def __init__(
        self, archs: Mapping[str, Arch], task: Task, data: TaskData, recalibration: RecalibrationSettings, seed: int
    ) -> None:
        self._archs, self._task, self._data, self._recalibration, self._seed = archs, task, data, recalibration, seed
        self._calibration: CalibrationInputs | None = None

    def __call__(self, supernet: Supernet, asked_to_stop: Callable[[], bool]) -> dict[str, dict[str, Any]]:
        """Return the scores by the architectures' names, as plain values; a loss that is no number is None.

        Raises `ValidationStopped` before the next batch when the process is asked to stop: who is given half a minute
        to leave cannot wait for the end.
        """
        size, count = self._recalibration.batch_size, self._recalibration.search_batches
        if self._calibration is None:
            device = next(supernet.parameters()).device
            self._calibration = self._data.calibration(size, count, self._seed, device)

        def batches(plan: Plan, first: int, end: int | None) -> Iterator[Batch]:
            return _until(asked_to_stop, self._data.validation(size))

        evaluator = Evaluator(supernet, self._task, self._calibration, batches)
        scores = {name: evaluator(arch) for name, arch in self._archs.items()}
        return {name: _plain(score) for name, score in scores.items()}


def _until(asked_to_stop: Callable[[], bool], batches: Iterator[Batch]) -> Iterator[Batch]:
    for batch in batches:
        if asked_to_stop():
            raise ValidationStopped
        yield batch


def _plain(score: Score) -> dict[str, Any]:
    metric = score.metric
    # The loss of a network that has diverged may be no number, which JSON does not know.
    loss = score.loss if isfinite(score.loss) else None
    return {
        metric.key: score.value,
        metric.loss_key: loss,
        metric.samples: score.samples,
        metric.error_key: score.error,
    }


class _MetricsLine(Settings, extra="allow"):
    """What has to be in a line that is read back; the rest is for people."""

    epoch: int = Field(ge=1)
    validation: dict[str, dict[str, Any]] | None = Field(default=None, min_length=1)


@dataclass(frozen=True)
class MetricsFile:
    """The file `metrics.jsonl` of a run: a JSON line for each finished epoch."""

    path: Path
    metric: Metric
    """The metric of the scores in it."""

    def lines(self) -> list[Metrics]:
        """Return all lines, the oldest first; raises `UserError` naming one that is damaged."""
        lines = read_json_lines(self.path)
        for number, line in enumerate(lines, start=1):
            place = Path(f"{self.path}: line {number}")
            read = parse_record(_MetricsLine, line, place, "damaged; remove that line")
            for name, score in (read.validation or {}).items():
                if not isinstance(score.get(self.metric.key), float | int):
                    missing = f"validation.{name}.{self.metric.key} is missing, or no number"
                    raise UserError(f"{place}: {missing}; damaged; remove that line")
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
        return max(validated, key=lambda line: self._gain(line["validation"]))["epoch"] if validated else None

    def _gain(self, scores: dict[str, dict[str, Any]]) -> float:
        mean = sum(float(score[self.metric.key]) for score in scores.values()) / len(scores)
        return self.metric.gain(mean)
