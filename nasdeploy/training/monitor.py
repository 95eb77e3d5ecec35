"""What is seen of a training run while it goes on: a bar, a forecast of time and memory, scalars for TensorBoard.

TensorBoard's package is an extra, needed only where its scalars are asked for.
"""

import resource
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress, Work, duration
from nasdeploy.core.score import Metric
from nasdeploy.store.files import disk_full_named
from nasdeploy.training.sandwich import Losses
from nasdeploy.training.settings import TrainSettings

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

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

    def __init__(self, left: int, device: torch.device, progress: Progress) -> None:
        self._left, self._device, self._progress = left, device, progress
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
            f"train: {duration(each)} a step, about {duration(each * left)} for the {left} steps that are left; "
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


@contextmanager
def monitored(
    done: int, total: int, device: torch.device, progress: Progress, directory: Path | None, metric: Metric
) -> Iterator[Monitor]:
    """Open a monitor of a run of `total` steps of which `done` are finished; scalars go into `directory`, if any."""
    with progress.task("train", total, done=done) as task, scalars_in(directory, done, metric) as scalars:
        yield Monitor(done, task, TrainingForecast(total - done, device, progress), scalars)
