"""What changes the weights: the optimizer, its learning rate, the clipping of gradients, and a moving average.

Sources: AlphaNet, appendix B; BigNAS, section 3.3.
"""

from collections.abc import Iterable
from math import cos, floor, pi
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nasdeploy.supernet.supernet import Supernet
from nasdeploy.training.settings import TrainSettings


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Return the optimizer that the settings name.

    Weight decay applies to weights only: normalisation parameters and biases, which are vectors, have none.
    """
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    rate = settings.learning_rate
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=rate, betas=settings.betas, eps=settings.epsilon or 1e-8)
    if settings.optimizer == "rmsprop":
        # timm imports all its models, which takes a second.
        from timm.optim.rmsprop_tf import RMSpropTF

        optimizer: torch.optim.Optimizer = RMSpropTF(
            groups,
            lr=rate,
            alpha=settings.rmsprop_decay,
            eps=settings.epsilon or 1e-3,
            momentum=settings.momentum,
        )
        return optimizer
    return torch.optim.SGD(groups, lr=rate, momentum=settings.momentum, nesterov=settings.nesterov)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` in the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def learning_rate(settings: TrainSettings, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate at iteration `step` (from 0), scaled to the recipe's batch size.

    It is a linear warm-up times a decay. Both count from the first iteration; the decay ends at `lowest`, and warm-up
    may begin below that.
    """
    epoch = step / steps_per_epoch
    base = settings.learning_rate * settings.batch_size / settings.reference_batch
    return base * _warmup(settings, epoch) * max(settings.lowest, _decay(settings, epoch))


def _warmup(settings: TrainSettings, epoch: float) -> float:
    if not settings.warmup_epochs:
        return 1.0
    start = settings.warmup_start
    return min(1.0, start + (1.0 - start) * epoch / settings.warmup_epochs)


def _decay(settings: TrainSettings, epoch: float) -> float:
    if settings.decay == "cosine":
        return 0.5 * (1.0 + cos(pi * epoch / settings.epochs))
    # In floating point 0.6 / 0.1 is less than 6.
    return settings.step_factor ** floor(epoch / settings.step_epochs + 1e-9)


def clip_gradients(parameters: Iterable[Tensor], settings: TrainSettings) -> float:
    """Limit the gradients by value or by their common 2-norm, or not at all, as the settings say.

    Returns the 2-norm that they had before; it is not finite if one of them is not.
    """
    parameters = list(parameters)
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if settings.clip_value is not None:
        nn.utils.clip_grad_value_(parameters, settings.clip_value)
    elif settings.clip_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, settings.clip_norm, norm)
    return float(norm)


class MovingAverage:
    """A second supernet with an exponential moving average of the weights, which is validated and handed on.

    After each step `average = decay * average + (1 - decay) * weights`; the first average is the weights themselves.
    """

    def __init__(self, supernet: Supernet, decay: float) -> None:
        self._model = AveragedModel(supernet, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]

    @property
    def supernet(self) -> Supernet:
        """The supernet with the averaged weights."""
        module = self._model.module
        assert isinstance(module, Supernet)
        return module

    def update(self, supernet: Supernet) -> None:
        """Take in the weights after a step."""
        self._model.update_parameters(supernet)

    def to_plain(self, supernet: Supernet) -> dict[str, Any]:
        """Return what a checkpoint of the averaged weights keeps besides: the trained weights, and the steps so far."""
        return {"trained": supernet.state_dict(), "averaged_steps": int(self._model.n_averaged)}

    def from_plain(self, plain: dict[str, Any], supernet: Supernet) -> None:
        """Restore what `to_plain` kept; raises KeyError, RuntimeError, TypeError or ValueError if it is damaged."""
        supernet.load_state_dict(plain["trained"])
        self._model.n_averaged.fill_(int(plain["averaged_steps"]))
