"""Losses of supernet training, in float32 or float64 also under autocast, and finite for extreme logits."""

from collections.abc import Callable
from functools import partial
from math import log
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from nasdeploy.training.settings import DistillationSettings

Distillation = Callable[[Tensor, Tensor], Tensor]
"""The function from student and teacher logits `[N, classes]` to a scalar loss."""


def label_loss(logits: Tensor, labels: Tensor, smoothing: float, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy with label smoothing, mean over the batch of logits `[N, classes]` and labels `[N]`.

    With `class_weights` `[classes]` each image's loss is weighted as by `torch.nn.functional.cross_entropy`; the sum is
    divided by N and not, as there, by the weights in the batch: parts of a batch on several processes then average to
    the whole, and a batch of one class is not weighted up.
    """
    exact = _exact(logits)
    if class_weights is None:
        return F.cross_entropy(exact, labels, label_smoothing=smoothing)
    weights = class_weights.to(exact.dtype)
    return F.cross_entropy(exact, labels, weights, reduction="sum", label_smoothing=smoothing) / len(labels)


def kl_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(p(T) || q(T)) of teacher p and student q, mean over the batch of logits `[N, classes]`.

    AlphaNet, appendix C, Eq. 8; with temperature T = 1 it is Eq. 7.
    """
    log_p = F.log_softmax(_exact(teacher.detach()) / temperature, dim=1)
    log_q = F.log_softmax(_exact(student) / temperature, dim=1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def alpha_divergence(log_p: Tensor, log_q: Tensor, alpha: float, clip: float) -> tuple[Tensor, Tensor]:
    """The divergence D `[N]` and its surrogate loss `[N]` for log-probabilities `[N, classes]` (AlphaNet, section 3).

    The importance weights (p / q)^alpha are clipped at `clip`, except for alpha = 1, which is the KL divergence. Only
    the surrogate has a gradient. Products q * (p / q) are taken as p, so nothing overflows where q underflows.
    """
    p, q, log_ratio = log_p.exp(), log_q.exp().detach(), (log_p - log_q).detach()
    if alpha == 1.0:
        divergence, weight = p * log_ratio, p
    elif alpha == 0.0:
        log_ratio = log_ratio.clamp(max=log(clip))
        divergence, weight = -q * log_ratio, q * (log_ratio - 1.0)
    else:
        clipped, constant = (alpha * log_ratio).clamp(max=log(clip)).exp(), 1.0 / (alpha * (alpha - 1.0))
        divergence, weight = q * constant * (clipped - 1.0), q * (clipped / alpha + constant)
    return divergence.sum(1), -(weight * log_q).sum(1)


def adaptive_alpha_divergence(
    student: Tensor, teacher: Tensor, alpha_min: float, alpha_max: float, clip: float
) -> Tensor:
    """Per sample the surrogate of whichever alpha has the larger divergence, mean over the batch (AlphaNet, Eq. 6).

    A tie takes `alpha_max`. Logits are `[N, classes]`.
    """
    log_p = F.log_softmax(_exact(teacher.detach()), dim=1)
    log_q = F.log_softmax(_exact(student), dim=1)
    low, low_loss = alpha_divergence(log_p, log_q, alpha_min, clip)
    high, high_loss = alpha_divergence(log_p, log_q, alpha_max, clip)
    return torch.where(high >= low, high_loss, low_loss).mean()


def distillation_loss(settings: "DistillationSettings") -> Distillation | None:
    """Return the distillation that the settings name; None if sub-networks learn from the labels."""
    if settings.kind == "none":
        return None
    if settings.kind == "kl":
        return partial(kl_divergence, temperature=settings.temperature)
    return partial(
        adaptive_alpha_divergence,
        alpha_min=settings.alpha_min,
        alpha_max=settings.alpha_max,
        clip=settings.clip,
    )


def _exact(logits: Tensor) -> Tensor:
    """Logits in float32 at least: half precision has too few digits, and autocast would choose it."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
