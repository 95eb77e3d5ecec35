"""The optimizer of a supernet (AlphaNet, appendix B; BigNAS), and the clipping of its gradients."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from nasdeploy.training.settings import TrainSettings


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimizer that the settings name; weight decay on weights, none on normalisation and biases (vectors)."""
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


def clip_gradients(parameters: Iterable[Tensor], settings: TrainSettings) -> float:
    """Limit the gradients by value or by their common 2-norm, or not at all, as the settings say.

    Returns the 2-norm that they had before; not finite if one of them is not.
    """
    parameters = list(parameters)
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if settings.clip_value is not None:
        nn.utils.clip_grad_value_(parameters, settings.clip_value)
    elif settings.clip_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, settings.clip_norm, norm)
    return float(norm)
