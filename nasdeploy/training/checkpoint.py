"""Checkpoints of a training run, after each epoch and in between; the last few are kept."""

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.amp import GradScaler

from nasdeploy.core.errors import UserError
from nasdeploy.store.checkpoints import BEST, checkpoint_files, checkpoint_name
from nasdeploy.store.files import replacing
from nasdeploy.supernet import weights
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.training.optimizer import (
    MovingAverage,
    gradient_scaler,
    make_optimizer,
    require_gradients,
    update_together,
)
from nasdeploy.training.sandwich import Skips, Totals
from nasdeploy.training.settings import TrainSettings


@dataclass
class Position:
    """How far a training is: finished epochs, finished steps of the next one, and that one's losses so far."""

    epoch: int = 0
    step: int = 0
    totals: Totals = field(default_factory=Totals)
    processes: int | None = None
    """The number of processes that train it, or wrote the checkpoint; None in those of earlier versions."""
    skips: Skips = field(default_factory=Skips)
    """The skipped steps of all epochs so far; none in checkpoints of earlier versions."""
    ended: tuple[int, ...] = ()
    """The numbers of finished epochs at which the finished phases ended; none in checkpoints of earlier versions."""

    @property
    def phase(self) -> int:
        """The number (from 0) of the phase that goes on or begins here; that of phases where all are finished."""
        return len(self.ended)

    @property
    def began(self) -> int:
        """The finished epochs at which that phase begins."""
        return self.ended[-1] if self.ended else 0

    @property
    def between(self) -> bool:
        """Whether no step of that phase was made."""
        return self.epoch == self.began and self.step == 0


@dataclass
class TrainingState:
    """Everything that training changes, which is what a checkpoint keeps."""

    supernet: Supernet
    optimizer: torch.optim.Optimizer
    average: MovingAverage | None
    """The moving average of the weights, if the recipe asks for one."""
    scaler: GradScaler
    position: Position = field(default_factory=Position)

    @classmethod
    def fresh(cls, supernet: Supernet, settings: TrainSettings, position: Position | None = None) -> "TrainingState":
        """Return the state before the first step of a phase, where the supernet is."""
        average = None if settings.ema is None else MovingAverage(supernet, settings.ema)
        require_gradients(supernet, settings.trains)
        scaler = gradient_scaler(settings, next(supernet.parameters()).device)
        return cls(supernet, make_optimizer(supernet, settings), average, scaler, position or Position())

    @property
    def averaged(self) -> Supernet:
        """The supernet that is validated and handed on: the one with averaged weights, if there is one."""
        return self.supernet if self.average is None else self.average.supernet


@dataclass(frozen=True)
class Checkpoints:
    """The files `epoch-E.pt` and `epoch-E-step-S.pt` in a directory: the state after E epochs and S more steps."""

    directory: Path
    kept: int = 2

    def all(self) -> list[Path]:
        """Return the checkpoint files, the oldest first."""
        return checkpoint_files(self.directory)

    def latest(self) -> Path:
        """Return the newest file; raises `UserError` if there is none."""
        files = self.all()
        if not files:
            raise UserError(f"{self.directory}: no checkpoint; train first with `nd.train(RECIPE)`")
        return files[-1]

    def save(self, state: TrainingState) -> None:
        """Write a state, with the averaged weights as its weights, then remove all but the last files."""
        position = state.position
        weights.save(
            self._path(position),
            state.averaged,
            epoch=position.epoch,
            step=position.step,
            totals=position.totals.to_plain(),
            processes=position.processes,
            skips=position.skips.to_plain(),
            phases_ended=list(position.ended),
            optimizer=state.optimizer.state_dict(),
            scaler=state.scaler.state_dict(),
            **({} if state.average is None else state.average.to_plain(state.supernet)),
        )
        for old in self.all()[: -self.kept]:
            old.unlink()

    def mark_best(self, position: Position) -> None:
        """Let `best.pt` be the same file as the checkpoint at a position, which may be removed later."""
        _same_file(self._path(position), self.directory / BEST)

    def restore_best(self) -> Path:
        """Let `best.pt`, the best epoch's checkpoint, have its own name again as well; return that path."""
        best = self.directory / BEST
        try:
            position = _position(weights.read(best))
        except (KeyError, ValueError, TypeError):
            raise UserError(f"{best}: damaged; start anew with `restart=True`") from None
        _same_file(best, self._path(position))
        return self._path(position)

    def newest(self) -> "SavedState | None":
        """Return what is in the newest file; None if there is none. Raises `UserError` if it is damaged."""
        if not self.all():
            return None
        path, remedy = self.latest(), self._remedy()
        content = weights.read(path, remedy)
        try:
            position = _position(content)
        except (KeyError, ValueError, TypeError, AttributeError):
            raise UserError(f"{path}: damaged; {remedy}") from None
        if self._path(position) != path:
            raise UserError(f"{path}: holds the state of {self._path(position).name}; give it that name, or delete it")
        return SavedState(path, content, position, remedy)

    def best(self, epoch: int) -> "SavedState":
        """Return what is in `best.pt`; raises `UserError` unless it is the checkpoint of an epoch."""
        path, remedy = self.directory / BEST, "start anew with `restart=True`"
        if not path.exists():
            raise UserError(f"{path}: gone, and the weights of epoch {epoch} with it; {remedy}")
        content = weights.read(path, remedy)
        try:
            position = _position(content)
        except (KeyError, ValueError, TypeError, AttributeError):
            raise UserError(f"{path}: damaged; {remedy}") from None
        if position.epoch != epoch:
            raise UserError(f"{path}: the checkpoint of epoch {position.epoch}, not of {epoch}; {remedy}")
        return SavedState(path, content, position, remedy)

    def _remedy(self) -> str:
        """Return what to do if the newest file is damaged."""
        if len(self.all()) > 1 or (self.directory / BEST).exists():
            return "delete it to go on from the one before"
        return "it is the only one: start anew with `restart=True`"

    def _path(self, position: Position) -> Path:
        return self.directory / checkpoint_name(position.epoch, position.step)


@dataclass(frozen=True)
class SavedState:
    """The content of a checkpoint."""

    path: Path
    content: dict[str, Any]
    position: Position
    remedy: str
    """What to do if it is damaged."""

    def restore(self, state: TrainingState) -> None:
        """Put everything into a fresh state of the same phase; raises `UserError` if it is damaged."""
        content = self.content
        self.restore_weights(state.averaged)
        try:
            if state.average is not None:
                state.average.from_plain(content, state.supernet)
                _require_finite(state.supernet.state_dict().values())
            state.optimizer.load_state_dict(content["optimizer"])
            update_together(state.optimizer)
            _require_fit(state.optimizer)
            # Checkpoints of before there was a scaler have none, which one that does nothing accepts.
            state.scaler.load_state_dict(content.get("scaler", {}))
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError):
            raise UserError(f"{self.path}: damaged; {self.remedy}") from None
        state.position = self.position

    def restore_weights(self, supernet: Supernet) -> None:
        """Put the weights that are handed on into a supernet; raises `UserError` if they are damaged."""
        weights.restore(supernet, self.content, self.path, self.remedy)


def change_of_processes(before: int | None, now: int, settings: TrainSettings, checkpoint: Path) -> str | None:
    """Return what it changes that `now` processes go on where `before` were; None if nothing changes, or is known.

    Raises `UserError` if the recipe forbids it.
    """
    if before is None or before == now:
        return None
    if settings.world_size_change == "refuse":
        raise UserError(
            f"{checkpoint}: written by {_counted(before)}, not {now}, and train.world_size_change is refuse; start as "
            "many again, or set train.world_size_change=allow"
        )
    batch = settings.batch_size
    normalised = "" if settings.sync_bn else ", which batch normalisation takes its statistics of (sync_bn is off)"
    return (
        f"{_counted(now)} instead of {before} from here on: the batch of {batch} images, the learning rate, and the "
        f"order and augmentation of images stay the same; each process now has {batch // now} images of a batch, not "
        f"{batch // before}{normalised}, draws other dropout, and sums in another order, so that the weights will not "
        "be bit for bit those of an undisturbed run"
    )


def _counted(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"


def _same_file(path: Path, other: Path) -> None:
    """Let `other` be the same file as `path`."""
    with replacing(other) as mark:
        try:
            os.link(path, mark)
        except OSError:
            # Not every file system has links.
            shutil.copyfile(path, mark)


def _require_fit(optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError for a state of other shapes than its parameters', or one that would make them NaN."""
    for parameter, state in optimizer.state.items():
        _require_finite(value for value in state.values() if isinstance(value, torch.Tensor))
        for value in state.values():
            if isinstance(value, torch.Tensor) and value.ndim and value.shape != parameter.shape:
                raise ValueError(f"a state of shape {list(value.shape)} for a parameter of {list(parameter.shape)}")


def _require_finite(values: Iterable[torch.Tensor]) -> None:
    if not all(bool(value.isfinite().all()) for value in values):
        raise ValueError("a number that is not finite")


def _position(content: Mapping[str, Any]) -> Position:
    epoch, step = int(content["epoch"]), int(content["step"])
    if min(epoch, step) < 0:
        raise ValueError(f"a position at epoch {epoch} and step {step}")
    processes, ended = content.get("processes"), tuple(int(end) for end in content.get("phases_ended", ()))
    if list(ended) != sorted(ended) or any(end > epoch for end in ended):
        raise ValueError(f"phases that ended after epochs {ended}, of {epoch}")
    return Position(
        epoch,
        step,
        Totals.from_plain(content["totals"]),
        None if processes is None else max(1, int(processes)),
        Skips.from_plain(content.get("skips", ())),
        ended,
    )
