"""Steps that were not made, because a loss or the gradient was not finite: which, why, and how many are too many."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.tasks.task import Inputs, Outputs
from nasdeploy.training.precision import overflowed
from nasdeploy.training.sandwich import Losses, Sandwich, SandwichStep, tensors_in

LOSS_SCALE = "range of fp16's loss scale"
"""The reason of the steps in which fp16's loss scaling looks for its range: they are no fault."""
_FEW = 3
_FEW_OF = 100
_ANEW = "start anew with `restart=True`"


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
        """Return the numbers of an epoch's skipped steps by reason."""
        return {reason: count for (when, reason), count in self.counts.items() if when == epoch}

    @property
    def faults(self) -> int:
        """The number of skipped steps, but for those in which loss scaling looked for its range."""
        return sum(count for (_, reason), count in self.counts.items() if reason != LOSS_SCALE)

    def to_plain(self) -> list[dict[str, Any]]:
        """Return the skips as plain values, for a checkpoint and for the facts of a run."""
        return [{"epoch": epoch, "reason": reason, "steps": count} for (epoch, reason), count in self.counts.items()]

    @classmethod
    def from_plain(cls, plain: Sequence[dict[str, Any]]) -> "Skips":
        """Return the skips of a checkpoint; raises KeyError, TypeError or ValueError if it is damaged."""
        return cls({(int(entry["epoch"]), str(entry["reason"])): int(entry["steps"]) for entry in plain})


def skipped_text(skipped: Sequence[dict[str, Any]], steps: int) -> str | None:
    """Return a sentence on what `Skips.to_plain` tells of a run of so many steps; None if all were made."""
    reasons = dict.fromkeys(str(entry["reason"]) for entry in skipped)
    parts = []
    for reason in reasons:
        entries = [entry for entry in skipped if entry["reason"] == reason]
        first, last = (end(int(entry["epoch"]) for entry in entries) for end in (min, max))
        when = f"epoch {first}" if first == last else f"epochs {first} to {last}"
        parts.append(f"{sum(int(entry['steps']) for entry in entries)} in {when} ({reason})")
    total = sum(int(entry["steps"]) for entry in skipped)
    return f"{total} of {steps} steps were skipped: {', '.join(parts)}" if parts else None


@dataclass
class StepGuard:
    """Decides whether a step is made, and ends a training in which too many are not."""

    total: int
    """The number of steps of the whole run."""
    most_in_a_row: int
    scaler: GradScaler
    in_a_row: int = 0

    def makes(self, losses: Losses, norm: float, epoch: int, skips: Skips, cause: Callable[[], Cause]) -> bool:
        """Return whether a step of an epoch (the first is 1) is made; `skips` counts it if not, by what `cause` finds.

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


def broken_rows(step: SandwichStep, inputs: Inputs) -> list[int]:
    """Return for which samples of a batch the step's own teacher, if it has one, gives numbers that are not finite."""
    outputs = step.taught(inputs)
    found = [] if outputs is None else [_broken(tensor) for tensor in tensors_in(outputs)]
    rows: list[int] = torch.stack(found).any(0).nonzero().flatten().tolist() if found else []
    return rows


def _broken(tensor: Tensor) -> Tensor:
    """Return whether each sample has a number that is not finite, `[N]`."""
    return ~tensor.isfinite().reshape(len(tensor), -1).all(1)


def cause_of(
    step: SandwichStep, sandwich: Sandwich, inputs: Inputs, losses: Losses, *, first: bool, autocast: str
) -> Cause | None:
    """Return what is not finite in a step, of a sound teacher; None if it is the inputs.

    All processes have to ask together, with losses averaged over them. `first`: no step was made before it.
    """
    if not _are_finite(inputs):
        return None
    role = next((role for role, loss in losses.by_role.items() if not isfinite(loss)), None)
    if role is None:
        return Cause("gradient", _calmer(first, autocast))
    kind, names = step.loss_of(role, sandwich), f"{role} network" + ("s" if len(sandwich.networks[role]) > 1 else "")
    if not all(_finite(step, inputs, arch) for arch in sandwich.networks[role]):
        return Cause(f"{kind} loss of the {names}, whose outputs were not finite", _calmer(first, autocast))
    if kind == "label":
        return Cause(f"label loss of the {names}", _calmer(first, autocast))
    return Cause(
        f"{kind} loss of the {names}, though their outputs were finite",
        f"change train.distillation (kind, temperature, alpha_min, alpha_max, clip) and {_ANEW}",
    )


def _finite(step: SandwichStep, inputs: Inputs, arch: Arch) -> bool:
    with torch.no_grad():
        return _are_finite(step.outputs(inputs, arch))


def _are_finite(outputs: Outputs) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in tensors_in(outputs))


def _calmer(first: bool, autocast: str) -> str:
    """Return what to do about weights that have grown too large, or in a first step cannot have."""
    exact = "" if autocast == "none" else f", or set train.autocast=none in place of {autocast},"
    if first:
        return f"no step was made before, so that it lies in the weights: start from others (`init`){exact} and {_ANEW}"
    return f"lower train.learning_rate{exact} and {_ANEW}"
