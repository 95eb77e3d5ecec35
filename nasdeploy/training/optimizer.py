"""What changes the weights: the optimizer, its learning rate, clipping, a moving average; and in which number formats.

Sources: AlphaNet, appendix B; BigNAS, section 3.3. Autocast, loss scaling and TF32 leave weights and losses in float32.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from math import cos, floor, isfinite, pi
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.amp import GradScaler, autocast

from nasdeploy.nn.heads import ClassifyingWeights
from nasdeploy.nn.network import layout_for
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.tasks.task import Inputs
from nasdeploy.training.settings import TrainSettings


def classifier_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of the layers of a supernet that give the outputs of a classifier."""
    heads = (module for module in model.modules() if isinstance(module, ClassifyingWeights))
    return [parameter for head in heads for parameter in head.classifier.parameters()]


def require_gradients(model: nn.Module, trains: Literal["all", "classifier"]) -> None:
    """Let all parameters have gradients, or the classifier's alone; the others then cost no backward pass."""
    model.requires_grad_(trains == "all")
    for parameter in classifier_parameters(model):
        parameter.requires_grad_(True)


def make_optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Return the optimizer that the settings name, of the parameters that have gradients.

    Weight decay applies to weights only: normalisation parameters and biases, which are vectors, have none. The
    classifier's parameters are groups of their own where they learn at a rate of their own.
    """
    optimizer = _optimizer(_parameter_groups(model, settings), settings)
    update_together(optimizer)
    return optimizer


def update_together(optimizer: torch.optim.Optimizer) -> None:
    """Let the parameters of a group be updated by multi-tensor operations, also on a CPU: the results are the same.

    Checkpoints of earlier versions say otherwise, and an optimizer takes that over from them.
    """
    for group in optimizer.param_groups:
        group["foreach"] = True


def _parameter_groups(model: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
    own = set() if settings.classifier_rate == 1.0 else {id(p) for p in classifier_parameters(model)}
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = _groups([p for p in parameters if id(p) not in own], settings.weight_decay)
    if own:
        classifier = _groups([p for p in parameters if id(p) in own], settings.weight_decay)
        groups += [{**group, _RATE: settings.classifier_rate} for group in classifier]
    return groups


def _optimizer(groups: list[dict[str, Any]], settings: TrainSettings) -> torch.optim.Optimizer:
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


_RATE = "rate"
"""The key of a group of parameters that holds what the learning rate is multiplied by for them."""


def _groups(parameters: Sequence[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` in the next step, times what parameters with a rate of their own have instead."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(_RATE, 1.0)


def learning_rate(settings: TrainSettings, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate at iteration `step` of a phase (from 0), scaled to the recipe's batch size.

    It is a linear warm-up times a decay. Both count from the first iteration; the decay ends at `lowest`, and warm-up
    may begin below that. Or warm-up comes first, reaches the whole rate in its last iteration, and the decay counts
    from the one after it.
    """
    base, warmup = settings.learning_rate * settings.batch_size / settings.reference_batch, settings.warmup_epochs
    epoch = step / steps_per_epoch
    if settings.warmup == "times-decay":
        return base * _warmup(settings, epoch) * max(settings.lowest, _decay(settings, epoch, settings.epochs))
    if epoch < warmup:
        return base * _warmup(settings, (step + 1) / steps_per_epoch)
    return base * max(settings.lowest, _decay(settings, epoch - warmup, settings.epochs - warmup))


def _warmup(settings: TrainSettings, epoch: float) -> float:
    if not settings.warmup_epochs:
        return 1.0
    start = settings.warmup_start
    return min(1.0, start + (1.0 - start) * epoch / settings.warmup_epochs)


def _decay(settings: TrainSettings, epoch: float, epochs: float) -> float:
    if settings.decay == "cosine":
        return 0.5 * (1.0 + cos(pi * epoch / epochs))
    # In floating point 0.6 / 0.1 is less than 6.
    return settings.step_factor ** floor(epoch / settings.step_epochs + 1e-9)


def give_zero_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Give zeros to parameters without a gradient that the optimizer has updated before: it then lets them coast.

    Momentum goes on and weights decay. What a phase has not trained yet stays as it is, and neither does it depend on
    whether the phase was interrupted.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None and optimizer.state.get(parameter):
                parameter.grad = torch.zeros_like(parameter)


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
    Running statistics are those that the supernet had, which training leaves alone.
    """

    def __init__(self, supernet: Supernet, decay: float) -> None:
        self.supernet = deepcopy(supernet)
        """The supernet with the averaged weights."""
        self._decay, self._steps = decay, 0

    @torch.no_grad()
    def update(self, supernet: Supernet) -> None:
        """Take in the weights after a step."""
        averaged, weights = tuple(self.supernet.parameters()), tuple(supernet.parameters())
        if self._steps:
            torch._foreach_lerp_(averaged, weights, 1.0 - self._decay)
        else:
            torch._foreach_copy_(averaged, weights)
        self._steps += 1

    def to_plain(self, supernet: Supernet) -> dict[str, Any]:
        """Return what a checkpoint of the averaged weights keeps besides: the trained weights, and the steps so far."""
        return {"trained": supernet.state_dict(), "averaged_steps": self._steps}

    def from_plain(self, plain: dict[str, Any], supernet: Supernet) -> None:
        """Restore what `to_plain` kept; raises KeyError, RuntimeError, TypeError or ValueError if it is damaged."""
        supernet.load_state_dict(plain["trained"])
        self._steps = int(plain["averaged_steps"])


_FORMATS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def mixed_precision(settings: TrainSettings, device: torch.device) -> AbstractContextManager[None]:
    """Return a context for forward passes, with convolutions and matrix products in the recipe's format.

    Backward passes belong outside: they run in the format that each forward operation had.
    """
    kind = settings.autocast
    context: AbstractContextManager[None] = autocast(device.type, dtype=_FORMATS.get(kind), enabled=kind != "none")
    return context


def gradient_scaler(settings: TrainSettings, device: torch.device) -> GradScaler:
    """Return the loss scaling of fp16, whose small gradients would be zero; for other formats one without effect."""
    return GradScaler(device.type, enabled=settings.autocast == "fp16")


def overflowed(scaler: GradScaler, gradient_norm: float) -> bool:
    """Return whether a gradient norm is not finite because of the loss scale, which then shrinks.

    At a scale of 1 the gradients themselves are to blame.
    """
    return scaler.is_enabled() and not isfinite(gradient_norm) and scaler.get_scale() > 1.0


def layout_of(settings: TrainSettings, device: torch.device) -> torch.memory_format:
    """Return the memory layout that the recipe names, or if it names none the one that takes the least time.

    With fewer bits than float32 a GPU is fast in channels-last layout only, where kernels in Triton do what
    `layout_for` says against it: on an H200 a step of `alphanet` on 128 images takes 0.15 s in bfloat16, and took 0.54
    s in the other layout; with TF32 0.25 s against 0.50 s, and in float32 0.62 s, without these kernels.
    """
    if settings.channels_last is None:
        exact = settings.autocast == "none" and not settings.tf32
        return layout_for(device) if exact else torch.channels_last
    return torch.channels_last if settings.channels_last else torch.contiguous_format


def laid_out(inputs: Inputs, layout: torch.memory_format) -> Inputs:
    """Return inputs with the images among them, `[N, C, H, W]`, in a memory layout."""
    return tuple(tensor.to(memory_format=layout) if tensor.ndim == 4 else tensor for tensor in inputs)


def set_tf32(settings: TrainSettings) -> None:
    """Let float32 convolutions and matrix products of GPUs round their factors to 10 bits, or not."""
    torch.backends.cuda.matmul.allow_tf32 = settings.tf32
    # The switch covers all of cuDNN: torch.export refuses to work where its convolutions differ from its recurrent
    # layers.
    torch.backends.cudnn.allow_tf32 = settings.tf32
