"""The sandwich rule with in-place distillation (BigNAS, section 3.1; AlphaNet, section 4)."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import isfinite

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from nasdeploy.core.arch import Arch
from nasdeploy.core.plan import Block
from nasdeploy.core.space import SearchSpace
from nasdeploy.nn import Forward, eager
from nasdeploy.nn.functional import BATCH, Statistics
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.tasks.losses import Distillation, label_loss
from nasdeploy.training.sampling.subspace import Allowed
from nasdeploy.training.teacher import Teacher


@dataclass(frozen=True)
class Sandwich:
    """The architectures of one step: the first learns from the labels and the others from it, or all from a teacher."""

    largest: Arch
    """The largest of the space; where only one network is trained, that one."""
    random: tuple[Arch, ...] = ()
    smallest: Arch | None = None


@dataclass(frozen=True)
class Losses:
    """Losses of one step: of the largest network, mean over the random ones, and of the smallest."""

    largest: float
    random: float | None
    smallest: float | None

    @property
    def finite(self) -> bool:
        """Whether all of them are numbers that can be learned from."""
        return all(isfinite(loss) for loss in (self.largest, self.random, self.smallest) if loss is not None)


def draw(space: SearchSpace | Allowed, count: int, rng: np.random.Generator) -> Sandwich:
    """The largest, `count` random and the smallest architecture of a space, or of what is allowed of one."""
    return Sandwich(space.largest(), tuple(space.sample(rng) for _ in range(count)), space.smallest())


@dataclass(frozen=True)
class SandwichStep:
    """Accumulates the gradients of one step over all of its networks."""

    supernet: Supernet
    distillation: Distillation | None
    label_smoothing: float
    drop_rates: Mapping[str, float]
    """Of the largest network; the others are not regularised."""
    beta: float = 1.0
    """Weight of distillation; that of the label loss beside it is 1 - beta (AlphaNet, Eq. 8)."""
    teacher: Teacher | None = None
    """What all networks learn from, the largest included (once-for-all); None if the others learn from the largest."""
    statistics: Statistics = BATCH
    """Of batch normalisation: those of this process's part of the batch, or of the whole batch."""
    precision: Callable[[], AbstractContextManager[None]] = nullcontext
    """Makes a context for forward passes, such as autocast."""
    forward_of: Callable[[Block], Forward] = eager
    """Gives the computation of a block, which may be compiled."""
    scale: Callable[[Tensor], Tensor] = lambda loss: loss
    """Scales a loss for its backward pass."""
    class_weights: Tensor | None = None
    """Of the label loss, `[classes]`; None for no weighting."""

    def __call__(self, sandwich: Sandwich, images: Tensor, labels: Tensor) -> Losses:
        """Add to the parameters' gradients; images `[N, 3, S, S]`, labels `[N]`. Returns the losses."""
        logits = self.logits(images, sandwich.largest, self.drop_rates)
        if self.teacher is None:
            teacher, largest = logits.detach(), self._label_loss(logits, labels)
        else:
            with self.precision():
                teacher = self.teacher(images)
            largest = self._student_loss(logits, labels, teacher)
        torch.autograd.backward(self.scale(largest))
        random = [self._learn(arch, images, labels, teacher) for arch in sandwich.random]
        smallest = self._learn(sandwich.smallest, images, labels, teacher) if sandwich.smallest else None
        # Numbers are asked for last: a GPU would wait at each of them.
        return Losses(
            largest=float(largest.detach()),
            random=_mean([float(loss) for loss in random]),
            smallest=None if smallest is None else float(smallest),
        )

    def losses_of(self, archs: Sequence[Arch], images: Tensor, labels: Tensor) -> list[float]:
        """Label losses of architectures on a batch without gradients, averaged over all processes of the run."""
        with torch.no_grad():
            losses = torch.stack([self._label_loss(self.logits(images, arch), labels) for arch in archs])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(losses)
            losses /= dist.get_world_size()
        return [float(loss) for loss in losses.cpu()]

    def _learn(self, arch: Arch, images: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
        loss = self._student_loss(self.logits(images, arch), labels, teacher)
        torch.autograd.backward(self.scale(loss))
        return loss.detach()

    def loss_of(self, role: str) -> str:
        """Which loss networks of a role (`largest`, `random`, `smallest`) learn by: `label` or `distillation`."""
        own = self.distillation is None or (role == "largest" and self.teacher is None)
        return "label" if own else "distillation"

    def logits(self, images: Tensor, arch: Arch, drop_rates: Mapping[str, float] | None = None) -> Tensor:
        """Logits `[N, classes]` of one network on images `[N, 3, S, S]`."""
        with self.precision():
            logits: Tensor = self.supernet(images, arch, drop_rates, self.statistics, self.forward_of)
        return logits

    def _student_loss(self, logits: Tensor, labels: Tensor, teacher: Tensor) -> Tensor:
        if self.distillation is None:
            return self._label_loss(logits, labels)
        if self.beta == 1.0:
            return self.distillation(logits, teacher)
        return self.beta * self.distillation(logits, teacher) + (1.0 - self.beta) * self._label_loss(logits, labels)

    def _label_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return label_loss(logits, labels, self.label_smoothing, self.class_weights)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
