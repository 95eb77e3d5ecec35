"""One training step: the sandwich rule with in-place distillation (BigNAS, section 3.1; AlphaNet, section 4).

Steps that were not made, because a loss or the gradient was not finite, are told: which, why, how many are too many.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.amp import GradScaler

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import Block
from nasdeploy.nn import Forward, eager
from nasdeploy.nn.functional import BATCH, Statistics, each_tensor, tensors_in
from nasdeploy.supernet.supernet import SubNetwork, Supernet
from nasdeploy.supernet.working import WorkingWeights
from nasdeploy.tasks.task import Inputs, Objective, Outputs, Targets, Task
from nasdeploy.training.graphs import Graphs, Learned
from nasdeploy.training.optimizer import overflowed
from nasdeploy.training.teacher import SizedTeacher, Teacher

LARGEST, LEADING, RANDOM, SMALLEST = "largest", "leading", "random", "smallest"
ROLES = (LARGEST, RANDOM, SMALLEST)
"""The roles that metrics always name, with None where no network had them; a sampler may give others."""


@dataclass(frozen=True)
class Sandwich:
    """The architectures of one step."""

    networks: Mapping[str, tuple[Arch, ...]]
    """The architectures by role, in the order in which they are trained."""
    leader: str | None = LARGEST
    """The role whose network is regularised, and from which the others learn unless there is a teacher of its own.

    It learns from the labels itself. None: all networks learn alike, from the teacher or from the labels.
    """
    all_regularised: bool = False
    """Whether every network is regularised, and not the leader alone."""

    @property
    def archs(self) -> tuple[Arch, ...]:
        """All architectures, in the order in which they are trained."""
        return tuple(arch for archs in self.networks.values() for arch in archs)


@dataclass(frozen=True)
class Losses:
    """The losses of one step."""

    by_role: Mapping[str, float]
    """The mean loss over the networks of each role, in the order in which they were trained."""

    @property
    def finite(self) -> bool:
        """Whether all of them are numbers that can be learned from."""
        return all(isfinite(loss) for loss in self.by_role.values())


@dataclass(frozen=True)
class StepComputation:
    """How the networks of a step are computed."""

    statistics: Statistics = BATCH
    """The statistics of batch normalisation: those of this process's part of the batch, or of the whole batch."""
    precision: Callable[[], AbstractContextManager[None]] = nullcontext
    """The maker of a context for forward passes, such as autocast."""
    forward_of: Callable[[Block], Forward] = eager
    """The computation of a block, which may be compiled."""
    scale: Callable[[Tensor], Tensor] = lambda loss: loss
    """The scaling of a loss for its backward pass."""
    graphs: Graphs | None = None
    """The recordings of networks that come in step after step; None where each is computed anew."""


@dataclass(frozen=True)
class SandwichStep:
    """Accumulates the gradients of one step over all of its networks."""

    supernet: Supernet
    task: Task
    objective: Objective
    drop_rates: Mapping[str, float]
    """The drop rates of the leading network, or of all where the sandwich says so; others are not regularised."""
    teacher: Teacher | None = None
    """What all networks learn from, the largest included (once-for-all); None if the others learn from the leader."""
    execution: StepComputation = StepComputation()

    def __call__(self, sandwich: Sandwich, inputs: Inputs, targets: Targets) -> Losses:
        """Add the gradients of all networks on a batch to those of the parameters. Returns the losses."""
        teacher = self.taught(inputs, sandwich)
        losses: dict[str, list[Tensor]] = {}
        for role, archs in sandwich.networks.items():
            for arch in archs:
                leads = role == sandwich.leader
                rates = self.drop_rates if leads or sandwich.all_regularised else None
                learned = self._learned(arch, rates, (inputs, targets, teacher))
                losses.setdefault(role, []).append(learned.loss)
                if leads and teacher is None:
                    teacher = learned.outputs
        # Numbers are asked for last: a GPU would wait at each of them.
        return Losses({role: sum(map(float, values)) / len(values) for role, values in losses.items()})

    def _learned(
        self, arch: Arch, drop_rates: Mapping[str, float] | None, given: tuple[Inputs, Targets, Outputs | None]
    ) -> Learned:
        """Add the gradients of a network on inputs and targets, with a teacher's outputs if there are any."""

        def learn(inputs: Inputs, targets: Targets, teacher: Outputs | None) -> Learned:
            with self.execution.precision():
                taken = self._working.take(self._bound(arch, drop_rates))
                outputs = self.task.outputs(taken.network, inputs)
            loss = self.objective.student(outputs, targets, teacher)
            taken.learn(self.execution.scale(loss))
            return Learned(each_tensor(torch.detach, outputs), loss.detach(), taken.parameters)

        graphs = self.execution.graphs
        return learn(*given) if graphs is None else graphs((arch, drop_rates is None), learn, given)

    def losses_of(self, archs: Sequence[Arch], inputs: Inputs, targets: Targets) -> list[float]:
        """Return the label losses of architectures on a batch, averaged over all processes; leaves no gradients."""
        with torch.no_grad():
            losses = torch.stack([self.objective.label(self.outputs(inputs, arch), targets) for arch in archs])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(losses)
            losses /= dist.get_world_size()
        return [float(loss) for loss in losses.cpu()]

    def loss_of(self, role: str, sandwich: Sandwich) -> str:
        """Return which loss networks of a role learn by: `label` or `distillation`."""
        no_teacher = self.teacher is None and sandwich.leader in (None, role)
        return "label" if self.objective.distillation is None or no_teacher else "distillation"

    def outputs(self, inputs: Inputs, arch: Arch) -> Outputs:
        """Return what the task computes from a batch with one network, which is not regularised."""
        with self.execution.precision():
            return self.task.outputs(self._bound(arch), inputs)

    def _bound(self, arch: Arch, drop_rates: Mapping[str, float] | None = None) -> SubNetwork:
        return self.supernet.bind(arch, drop_rates, self.execution.statistics, self.execution.forward_of)

    @cached_property
    def _working(self) -> WorkingWeights:
        return WorkingWeights(self.supernet)

    def taught(self, inputs: Inputs, sandwich: Sandwich) -> Outputs | None:
        """Return the teacher's outputs on a batch for some networks; None if there is no teacher of its own."""
        if self.teacher is None:
            return None
        teacher = self.teacher.beside(sandwich.archs) if isinstance(self.teacher, SizedTeacher) else self.teacher
        with self.execution.precision():
            return teacher(*inputs)


@dataclass
class Totals:
    """The losses of an epoch as they add up: part of a checkpoint, so that an interrupted epoch reports all steps."""

    sums: dict[str, float] = field(default_factory=dict)
    """The sums of losses by role, and of the gradient's norm, over the steps that counted."""
    steps: int = 0
    """The number of steps that counted."""
    skipped: int = 0
    """The number of steps that did not."""

    def add(self, losses: Losses, gradient_norm: float) -> bool:
        """Count a step; False if a loss or the gradient is not finite and the step is to be skipped."""
        if not (losses.finite and isfinite(gradient_norm)):
            self.skipped += 1
            return False
        for name, value in {**losses.by_role, _NORM: gradient_norm}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.steps += 1
        return True

    def metrics(self) -> dict[str, float | int | None]:
        """Return mean losses by role, the mean gradient norm, and the number of skipped steps."""
        roles = dict.fromkeys((*ROLES, *(name for name in self.sums if name != _NORM)))
        means = {f"loss_{role}": self._mean(role) for role in roles}
        return {**means, _NORM: self._mean(_NORM), "skipped_steps": self.skipped}

    @property
    def leading_loss(self) -> float | None:
        """The mean loss of the role that is trained first; None before any step."""
        return self._mean(next(iter(self.sums))) if self.sums else None

    def _mean(self, name: str) -> float | None:
        return self.sums[name] / self.steps if name in self.sums else None

    def to_plain(self) -> dict[str, Any]:
        """Return the totals as plain values for a checkpoint."""
        return {"sums": dict(self.sums), "steps": self.steps, "skipped": self.skipped}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Totals":
        """Return the totals of a checkpoint; raises KeyError, TypeError or ValueError if it is damaged."""
        sums = {str(role): float(value) for role, value in plain["sums"].items()}
        return cls(sums, int(plain["steps"]), int(plain["skipped"]))


_NORM = "gradient_norm"


def to_tensor(losses: Losses, stop: bool) -> Tensor:
    """Return `[roles + 1]`: the losses in their order, and whether this process was asked to stop."""
    return torch.tensor([*losses.by_role.values(), float(stop)])


def from_tensor(values: Tensor, losses: Losses) -> tuple[Losses, bool]:
    """Return the losses averaged over processes, with the roles of `losses`, and whether any process has to stop."""
    *averages, stop = values.tolist()
    return Losses(dict(zip(losses.by_role, averages, strict=True))), stop > 0


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


def broken_rows(step: SandwichStep, sandwich: Sandwich, inputs: Inputs) -> list[int]:
    """Return for which samples of a batch the step's own teacher, if it has one, gives numbers that are not finite."""
    outputs = step.taught(inputs, sandwich)
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
