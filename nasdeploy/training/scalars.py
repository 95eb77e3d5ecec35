"""The scalars of a training run as TensorBoard shows them; its package is an extra, needed only where they are on."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasdeploy.core.errors import UserError
from nasdeploy.store.files import disk_full_named
from nasdeploy.training.settings import TrainSettings

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_EVERY = 10
"""Steps between two points of a curve: a week of steps would fill a disk otherwise."""


def require_tensorboard(settings: TrainSettings) -> None:
    """Raise `UserError` if the settings want scalars and the package that writes them is missing."""
    if settings.tensorboard and find_spec("tensorboard") is None:
        raise UserError(
            "train.tensorboard is true, but the package tensorboard is not installed: run pip install "
            "'nasdeploy[tensorboard]', or set train.tensorboard=false"
        )


@dataclass(frozen=True)
class Scalars:
    """Writes scalars by the number of finished optimizer steps; nothing without a writer."""

    writer: "SummaryWriter | None"
    directory: Path | None = None

    def step(self, steps: int, figures: Mapping[str, float | None]) -> None:
        """Figures of one step, by tag; one step in ten is written."""
        if self.writer is not None and steps % _EVERY == 0:
            self._write(steps, figures)

    def epoch(self, steps: int, metrics: Mapping[str, Any]) -> None:
        """Figures of an epoch's metrics: speed, memory, and accuracies of the validated networks."""
        if self.writer is None:
            return
        figures = {name: metrics[name] for name in ("images_per_s", "peak_memory_gib", "skipped_steps")}
        scores = metrics.get("validation", {})
        figures |= {f"top1/{name}": score["top1"] for name, score in scores.items()}
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
def scalars_in(directory: Path | None, steps: int) -> Iterator[Scalars]:
    """Scalars in event files of a directory, or nowhere.

    After a restart TensorBoard drops what was written beyond the `steps` that are finished.
    """
    if directory is None:
        yield Scalars(None)
        return
    from torch.utils.tensorboard import SummaryWriter

    with disk_full_named(directory.parent):
        writer = SummaryWriter(directory, purge_step=steps + 1 if steps else None)
    scalars = Scalars(writer, directory)
    with _reported_once():
        try:
            yield scalars
        finally:
            scalars.close()


@contextmanager
def _reported_once() -> Iterator[None]:
    """TensorBoard's thread fails with a traceback, and hands its error to who writes next: that one is reported."""
    before = threading.excepthook

    def report(given: threading.ExceptHookArgs) -> None:
        if not issubclass(given.exc_type, OSError):
            before(given)

    threading.excepthook = report
    try:
        yield
    finally:
        threading.excepthook = before
