"""Checkpoints of a training run, one an epoch; the last two are kept."""

from dataclasses import dataclass
from pathlib import Path

import torch

from nasdeploy.errors import UserError
from nasdeploy.supernet import weights
from nasdeploy.supernet.supernet import Supernet

KEPT = 2


@dataclass(frozen=True)
class Checkpoints:
    """The files `epoch-NNNNNN.pt` in a directory; the number is that of finished epochs."""

    directory: Path

    def all(self) -> list[Path]:
        """Checkpoint files, oldest first."""
        return sorted(self.directory.glob("epoch-*.pt"))

    def latest(self) -> Path:
        """The newest file; raises `UserError` if there is none."""
        files = self.all()
        if not files:
            raise UserError(f"{self.directory}: no checkpoint; train first with 'nasdeploy train RECIPE'")
        return files[-1]

    def save(self, supernet: Supernet, optimizer: torch.optim.Optimizer, epoch: int) -> Path:
        """Write the state after `epoch` epochs, then remove all but the last files."""
        path = self.directory / f"epoch-{epoch:06d}.pt"
        weights.save(path, supernet, epoch=epoch, optimizer=optimizer.state_dict())
        for old in self.all()[:-KEPT]:
            old.unlink()
        return path

    def resume(self, supernet: Supernet, optimizer: torch.optim.Optimizer) -> int:
        """Load the newest file, if any; the number of finished epochs."""
        if not self.all():
            return 0
        path = self.latest()
        content = weights.read(path)
        weights.restore(supernet, content, path)
        try:
            optimizer.load_state_dict(content["optimizer"])
            return int(content["epoch"])
        except (KeyError, ValueError, TypeError):
            raise UserError(f"{path}: damaged; delete it to go on from the one before") from None
