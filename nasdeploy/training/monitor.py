"""What is seen of a training run: scores of some sub-networks, a file of metrics, a bar, a forecast, and TensorBoard's.

TensorBoard's package is an extra, needed only where its scalars are asked for.
"""

import json
import os
import resource
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import Plan
from nasdeploy.core.progress import Progress, Work, duration
from nasdeploy.core.score import Metric, Score
from nasdeploy.core.settings import Settings
from nasdeploy.store.files import append_json_line, disk_full_named, read_json_lines, write_text
from nasdeploy.store.records import parse_record
from nasdeploy.supernet.evaluate import Evaluator
from nasdeploy.supernet.settings import RecalibrationSettings
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.tasks.task import Batch, CalibrationInputs, Task, TaskData
from nasdeploy.training.sandwich import Losses
from nasdeploy.training.settings import TrainSettings

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


Metrics = dict[str, Any]
"""The metrics of one epoch, as they stand in a line of the file."""


ENDED_EARLY = "ended_early"
"""The key of a phase's last metrics that tells the `best_epoch` whose weights were taken instead."""


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

        evaluator = Evaluator(supernet, self._task, self._calibration, batches).averaging(self._recalibration.average)
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

    def handed_on(self, epoch: int) -> Metrics:
        """Return the metrics of the last epoch, with the scores of the earlier one whose weights were taken, if any.

        Where no epoch was gone through (0), there are none.
        """
        if epoch == 0:
            return {"epoch": 0}
        line = self.of(epoch)
        early = line.get(ENDED_EARLY)
        return line if early is None else {**line, "validation": self.of(early["best_epoch"])["validation"]}

    def best_epoch(self, after: int = 0, latest: Metrics | None = None) -> int | None:
        """Return the epoch with the best mean score of the validated networks, the first of equals; None before any.

        Epochs up to `after` do not count: they belong to earlier phases, which validate other networks. `latest` are
        metrics that are not in the file yet.
        """
        lines = [*self.lines(), *([] if latest is None else [latest])]
        validated = [line for line in lines if line["epoch"] > after and line.get("validation")]
        return max(validated, key=lambda line: self._gain(line["validation"]))["epoch"] if validated else None

    def _gain(self, scores: dict[str, dict[str, Any]]) -> float:
        mean = sum(float(score[self.metric.key]) for score in scores.values()) / len(scores)
        return self.metric.gain(mean)


_EVERY = 10
"""The steps between two points of a curve: a week of steps would fill a disk otherwise."""
_STEPS = 20
"""The number of steps that a forecast is made from."""
_ENOUGH_S = 60.0
"""The seconds after which fewer steps are enough for a forecast."""


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that this process has held at a time: on the GPU if it trains there, else in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class TrainingForecast:
    """Says once how long the steps that are left will take, by the first ones, and how much memory they need.

    The very first step is left out: it also allocates, chooses algorithms and starts the processes that read images.
    """

    def __init__(self, left: int, device: torch.device, progress: Progress, name: str = "train") -> None:
        self._left, self._device, self._progress, self._name = left, device, progress, name
        self._done, self._began = 0, 0.0

    def step(self) -> None:
        """Count a finished step."""
        self._done += 1
        if self._done == 1:
            self._began = perf_counter()
        elif self._began and (self._done > _STEPS or perf_counter() - self._began > _ENOUGH_S):
            self._say(perf_counter() - self._began)
            self._began = 0.0

    def _say(self, took: float) -> None:
        each, left = took / (self._done - 1), self._left - self._done
        memory = peak_memory(self._device) / 2**30
        self._progress.say(
            f"{self._name}: {duration(each)} a step, about {duration(each * left)} for the {left} steps that are left; "
            f"{memory:.2g} GiB of memory"
        )


def require_tensorboard(settings: TrainSettings) -> None:
    """Raise `UserError` if the settings want scalars and the package that writes them is missing."""
    if settings.tensorboard and find_spec("tensorboard") is None:
        raise UserError(
            "train.tensorboard is true, but the package tensorboard is not installed: run pip install "
            "'nasdeploy[tensorboard]', or set train.tensorboard=false"
        )


@dataclass(frozen=True)
class Scalars:
    """Writes scalars by the number of finished optimizer steps; without a writer it writes nothing."""

    writer: "SummaryWriter | None"
    metric: Metric
    directory: Path | None = None

    def step(self, steps: int, figures: Mapping[str, float | None]) -> None:
        """Write the figures of one step, by tag; only one step in ten is written."""
        if self.writer is not None and steps % _EVERY == 0:
            self._write(steps, figures)

    def phase(self, steps: int, name: str) -> None:
        """Write which phase goes on after so many steps."""
        if self.writer is not None:
            with self._disk_full_named():
                self.writer.add_text("phase", name, steps)

    def epoch(self, steps: int, metrics: Mapping[str, Any]) -> None:
        """Write what an epoch's metrics say of speed, memory, and the scores of the validated networks."""
        if self.writer is None:
            return
        names, key = (f"{self.metric.samples}_per_s", "peak_memory_gib", "skipped_steps"), self.metric.key
        scores = metrics.get("validation", {})
        figures = {name: metrics[name] for name in names}
        figures |= {f"{key}/{name}": score[key] for name, score in scores.items()}
        self._write(steps, figures)
        with self._disk_full_named():
            self.writer.flush()

    def _write(self, steps: int, figures: Mapping[str, float | None]) -> None:
        assert self.writer is not None
        with self._disk_full_named():
            for tag, value in figures.items():
                if value is not None:
                    self.writer.add_scalar(tag, value, steps)

    def close(self) -> None:
        """Write what is left; raises `UserError` if the disk is full."""
        if self.writer is not None:
            with self._disk_full_named():
                self.writer.close()

    def _disk_full_named(self) -> AbstractContextManager[None]:
        assert self.directory is not None
        return disk_full_named(self.directory)


@contextmanager
def scalars_in(directory: Path | None, steps: int, metric: Metric) -> Iterator[Scalars]:
    """Open scalars in event files of a directory, or nowhere.

    After a restart TensorBoard drops what was written beyond the `steps` that are finished.
    """
    if directory is None:
        yield Scalars(None, metric)
        return
    from torch.utils.tensorboard import SummaryWriter

    with disk_full_named(directory.parent):
        writer = SummaryWriter(directory, purge_step=steps + 1 if steps else None)
    scalars = Scalars(writer, metric, directory)
    with _reported_once():
        try:
            yield scalars
        finally:
            scalars.close()


@contextmanager
def _reported_once() -> Iterator[None]:
    """Silence the traceback of TensorBoard's thread, which hands its error to who writes next: that one is reported."""
    before = threading.excepthook

    def report(given: threading.ExceptHookArgs) -> None:
        if not issubclass(given.exc_type, OSError):
            before(given)

    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = before


@dataclass
class Monitor:
    """Is told of every step and epoch; `steps` counts finished optimizer steps from the beginning of the run."""

    steps: int
    task: Work
    forecast: TrainingForecast
    scalars: Scalars

    def step(self, losses: Losses, learning_rate: float, gradient_norm: float, note: str) -> None:
        """Count a finished step; `note` is shown beside the bar."""
        self.steps += 1
        self.task.advance(note=note)
        self.forecast.step()
        figures: dict[str, float | None] = {f"loss/{role}": loss for role, loss in losses.by_role.items()}
        self.scalars.step(self.steps, {**figures, "learning_rate": learning_rate, "gradient_norm": gradient_norm})

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """Show the metrics of a finished epoch."""
        self.scalars.epoch(self.steps, metrics)


@dataclass(frozen=True)
class PhaseSteps:
    """The steps of a phase, or of a training without phases."""

    done: int
    """The number of those that are finished."""
    total: int
    before: int = 0
    """The number of steps of earlier phases."""
    phase: str | None = None
    """The name of the phase; None without phases."""

    @property
    def name(self) -> str:
        """What a user sees beside the bar."""
        return "train" if self.phase is None else f"train {self.phase}"


@contextmanager
def monitored(
    steps: PhaseSteps, device: torch.device, progress: Progress, directory: Path | None, metric: Metric
) -> Iterator[Monitor]:
    """Open a monitor of the steps of a phase that are left; scalars go into `directory`, if any."""
    finished, left = steps.before + steps.done, steps.total - steps.done
    with (
        progress.task(steps.name, steps.total, done=steps.done) as task,
        scalars_in(directory, finished, metric) as scalars,
    ):
        if steps.phase is not None:
            scalars.phase(finished, steps.phase)
        yield Monitor(finished, task, TrainingForecast(left, device, progress, steps.name), scalars)
