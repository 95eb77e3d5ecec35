"""Number formats and memory layout of training: autocast, loss scaling, TF32. Weights and losses stay float32."""

from contextlib import AbstractContextManager
from math import isfinite

import torch
from torch.amp import GradScaler, autocast

from nasdeploy.nn.device import layout_for
from nasdeploy.tasks.task import Inputs
from nasdeploy.training.settings import TrainSettings

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

    With fewer bits than float32 a GPU is fast in channels-last layout only, which pays for what `layout_for` says
    against it: on an H200 a step of `alphanet` on 128 images takes 28 s at first and 0.21 s once all shapes were met
    in bfloat16, 0.54 s in the other layout; with TF32 0.25 s against 0.50 s, and in float32 0.62 s.
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
