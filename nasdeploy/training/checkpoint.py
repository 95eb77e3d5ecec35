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
from nasdeploy.training.ema import MovingAverage, averaged_supernet
from nasdeploy.training.skips import Skips
from nasdeploy.training.totals import Totals


@dataclass
class Position:
    """How far a training is: finished epochs, finished steps of the next one, and that one's losses so far."""

    epoch: int = 0
    step: int = 0
    totals: Totals = field(default_factory=Totals)
    processes: int | None = None
    """How many train it, or wrote the checkpoint; None in those of earlier versions."""
    skips: Skips = field(default_factory=Skips)
    """Of all epochs so far; none in checkpoints of earlier versions."""


@dataclass(frozen=True)
class Checkpoints:
    """The files `epoch-E.pt` and `epoch-E-step-S.pt` in a directory: the state after E epochs and S more steps."""

    directory: Path
    kept: int = 2

    def all(self) -> list[Path]:
        """Checkpoint files, oldest first."""
        return checkpoint_files(self.directory)

    def latest(self) -> Path:
        """The newest file; raises `UserError` if there is none."""
        files = self.all()
        if not files:
            raise UserError(f"{self.directory}: no checkpoint; train first with 'nasdeploy train RECIPE'")
        return files[-1]

    def save(
        self,
        supernet: Supernet,
        optimizer: torch.optim.Optimizer,
        position: Position,
        average: MovingAverage | None = None,
        scaler: GradScaler | None = None,
    ) -> None:
        """Write the state at a position, then remove all but the last files. The weights are the averaged ones."""
        path = self._path(position)
        weights.save(
            path,
            averaged_supernet(supernet, average),
            epoch=position.epoch,
            step=position.step,
            totals=position.totals.to_plain(),
            processes=position.processes,
            skips=position.skips.to_plain(),
            optimizer=optimizer.state_dict(),
            scaler={} if scaler is None else scaler.state_dict(),
            **({} if average is None else average.to_plain(supernet)),
        )
        for old in self.all()[: -self.kept]:
            old.unlink()

    def mark_best(self, position: Position) -> None:
        """Let `best.pt` be the same file as the checkpoint at a position, which may be removed later."""
        _same_file(self._path(position), self.directory / BEST)

    def restore_best(self) -> Path:
        """Let the best epoch's checkpoint, which was kept as `best.pt`, be there under its own name again; its path."""
        best = self.directory / BEST
        try:
            position = _position(weights.read(best))
        except (KeyError, ValueError, TypeError):
            raise UserError(f"{best}: damaged; start anew with --restart") from None
        _same_file(best, self._path(position))
        return self._path(position)

    def resume(
        self,
        supernet: Supernet,
        optimizer: torch.optim.Optimizer,
        average: MovingAverage | None = None,
        scaler: GradScaler | None = None,
    ) -> Position:
        """Load the newest file, if any; where it left off."""
        if not self.all():
            return Position()
        path = self.latest()
        content = weights.read(path, self._remedy())
        weights.restore(averaged_supernet(supernet, average), content, path, self._remedy())
        try:
            if average is not None:
                average.from_plain(content, supernet)
                _require_finite(supernet.state_dict().values())
            optimizer.load_state_dict(content["optimizer"])
            _require_fit(optimizer)
            if scaler is not None:
                # Checkpoints of before there was a scaler have none, which one that does nothing accepts.
                scaler.load_state_dict(content.get("scaler", {}))
            position = _position(content)
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError):
            raise UserError(f"{path}: damaged; {self._remedy()}") from None
        if self._path(position) != path:
            raise UserError(f"{path}: holds the state of {self._path(position).name}; give it that name, or delete it")
        return position

    def _remedy(self) -> str:
        """What to do if the newest file is damaged."""
        if len(self.all()) > 1 or (self.directory / BEST).exists():
            return "delete it to go on from the one before"
        return "it is the only one: start anew with --restart"

    def _path(self, position: Position) -> Path:
        return self.directory / checkpoint_name(position.epoch, position.step)


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
    processes = content.get("processes")
    return Position(
        epoch,
        step,
        Totals.from_plain(content["totals"]),
        None if processes is None else max(1, int(processes)),
        Skips.from_plain(content.get("skips", ())),
    )
