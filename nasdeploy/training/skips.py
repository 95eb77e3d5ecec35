"""Steps that were not made, because a loss or the gradient was not finite: which, why, and how many are too many."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

from torch.amp import GradScaler

from nasdeploy.core.errors import UserError
from nasdeploy.training.precision import overflowed
from nasdeploy.training.sandwich import Losses

LOSS_SCALE = "range of fp16's loss scale"
"""The reason of the steps in which fp16's loss scaling looks for its range: they are no fault."""
_FEW = 3
_FEW_OF = 100


@dataclass(frozen=True)
class Cause:
    """Why a step could not be made, and what to do if that lasts."""

    reason: str
    remedy: str


@dataclass
class Skips:
    """The steps of a run that were not made, by epoch (the first is 1) and reason; part of a checkpoint."""

    counts: dict[tuple[int, str], int] = field(default_factory=dict)

    def add(self, epoch: int, reason: str) -> None:
        """Count one more."""
        self.counts[epoch, reason] = self.counts.get((epoch, reason), 0) + 1

    def of_epoch(self, epoch: int) -> dict[str, int]:
        """Numbers of steps by reason."""
        return {reason: count for (when, reason), count in self.counts.items() if when == epoch}

    @property
    def faults(self) -> int:
        """All but those in which loss scaling looked for its range."""
        return sum(count for (_, reason), count in self.counts.items() if reason != LOSS_SCALE)

    def to_plain(self) -> list[dict[str, Any]]:
        """For a checkpoint and for the facts of a run."""
        return [{"epoch": epoch, "reason": reason, "steps": count} for (epoch, reason), count in self.counts.items()]

    @classmethod
    def from_plain(cls, plain: Sequence[dict[str, Any]]) -> "Skips":
        """From a checkpoint; raises KeyError, TypeError or ValueError if it is damaged."""
        return cls({(int(entry["epoch"]), str(entry["reason"])): int(entry["steps"]) for entry in plain})


def skipped_text(skipped: Sequence[dict[str, Any]], steps: int) -> str | None:
    """A sentence on what `Skips.to_plain` tells of a run of so many steps; None if all were made."""
    reasons = dict.fromkeys(str(entry["reason"]) for entry in skipped)
    parts = []
    for reason in reasons:
        entries = [entry for entry in skipped if entry["reason"] == reason]
        first, last = (bound(int(entry["epoch"]) for entry in entries) for bound in (min, max))
        when = f"epoch {first}" if first == last else f"epochs {first} to {last}"
        parts.append(f"{sum(int(entry['steps']) for entry in entries)} in {when} ({reason})")
    total = sum(int(entry["steps"]) for entry in skipped)
    return f"{total} of {steps} steps were skipped: {', '.join(parts)}" if parts else None


@dataclass
class StepGuard:
    """Decides whether a step is made, and ends a training in which too many are not."""

    total: int
    """Steps of the whole run."""
    most_in_a_row: int
    scaler: GradScaler
    in_a_row: int = 0

    def makes(self, losses: Losses, norm: float, epoch: int, skips: Skips, cause: Callable[[], Cause]) -> bool:
        """Whether a step of an epoch (the first is 1) is made; `skips` counts it if not, by what `cause` finds.

        Raises `UserError` after too many in a row, and for more in the whole run than 3 or, if that is more, one in a
        hundred: less than that is lost in what differs between two runs anyway.
        """
        if losses.finite and isfinite(norm):
            self.in_a_row = 0
            return True
        if losses.finite and overflowed(self.scaler, norm):
            skips.add(epoch, LOSS_SCALE)
            return False
        found = cause()
        self.in_a_row += 1
        skips.add(epoch, found.reason)
        most = max(_FEW, self.total // _FEW_OF)
        if self.in_a_row > self.most_in_a_row:
            lasting = "" if self.in_a_row == 1 else f" for {self.in_a_row} steps in a row"
            raise UserError(f"training diverged in epoch {epoch}: not finite{lasting}: {found.reason}; {found.remedy}")
        if skips.faults > most:
            told = skipped_text(skips.to_plain(), self.total)
            raise UserError(f"training diverged in epoch {epoch}: {told}, and at most {most} may be; {found.remedy}")
        return False
