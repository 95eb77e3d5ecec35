"""Functions that every block family is made of, on explicit tensors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasdeploy.nn.synchronised import synchronised_batch_norm


@dataclass(frozen=True)
class Statistics:
    """Which statistics batch normalisation uses.

    `batch`: those of the batch, else the running ones. With `momentum` > 0 the running ones move towards the batch's.
    `synchronised`: the batch is that of all processes together.
    """

    batch: bool
    momentum: float = 0.0
    synchronised: bool = False


BATCH = Statistics(batch=True)
"""Training: normalise by the batch; running statistics are neither used nor changed."""
SYNCHRONISED = Statistics(batch=True, synchronised=True)
"""Training on several processes: normalise by the batches of all of them."""
RUNNING = Statistics(batch=False)
"""Inference: normalise by running statistics."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"swish": F.silu, "relu": F.relu, "hswish": F.hardswish}
BN_EPS = 1e-5


class NormTensors(NamedTuple):
    """Scale, shift, running mean and running variance, `[channels]` each."""

    weight: Tensor
    bias: Tensor
    mean: Tensor
    var: Tensor


def slice_norm(norm: nn.BatchNorm2d, channels: int) -> NormTensors:
    """The leading `channels` of a normalisation."""
    weight, bias, mean, var = norm.weight, norm.bias, norm.running_mean, norm.running_var
    assert mean is not None and var is not None
    if channels == norm.num_features:
        return NormTensors(weight, bias, mean, var)
    return NormTensors(weight[:channels], bias[:channels], mean[:channels], var[:channels])


def batch_norm(x: Tensor, norm: NormTensors, statistics: Statistics) -> Tensor:
    """Batch normalisation of `[N, channels, H, W]`."""
    if statistics.synchronised:
        return synchronised_batch_norm(x, norm.weight, norm.bias, BN_EPS)
    if statistics.batch and not statistics.momentum:
        return F.batch_norm(x, None, None, norm.weight, norm.bias, True, 0.0, BN_EPS)
    return F.batch_norm(x, norm.mean, norm.var, norm.weight, norm.bias, statistics.batch, statistics.momentum, BN_EPS)


class _Leading(torch.autograd.Function):
    """The leading rows and columns of a parameter, whose gradient is added in place to the parameter's.

    Autograd's own slicing makes a zero-filled gradient of the whole parameter for each use; over the four networks of a
    sandwich step that alone costs 4 to 10 % of the time. In return `backward()` is the only way to the gradient
    (`torch.autograd.grad` does not see it).
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: int, columns: int) -> Tensor:
        ctx.weight, ctx.rows, ctx.columns = weight, rows, columns
        return weight[:rows, :columns].contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        weight: Tensor = ctx.weight
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        weight.grad[: ctx.rows, : ctx.columns] += gradients[0]
        return None, None, None


def slice_matrix(weight: Tensor, rows: int, columns: int) -> Tensor:
    """The leading output and input channels of a weight `[out, in, ...]`; contiguous, the weight itself if whole."""
    if weight.shape[0] == rows and weight.shape[1] == columns:
        return weight
    sliced: Tensor = _Leading.apply(weight, rows, columns)
    return sliced


def centre_crop(weight: Tensor, channels: int, kernel_size: int) -> Tensor:
    """The leading channels and the central taps of a depthwise weight `[channels, 1, k, k]`."""
    if weight.shape[0] != channels:
        weight = weight[:channels]
    margin = (weight.shape[-1] - kernel_size) // 2
    if margin:
        weight = weight[:, :, margin : margin + kernel_size, margin : margin + kernel_size]
    return weight


def drop_connect(x: Tensor, rate: float) -> Tensor:
    """Zero whole samples of `[N, ...]` with probability `rate`; the others are scaled by 1 / (1 - rate)."""
    if rate == 0.0:
        return x
    keep = torch.empty((x.shape[0], 1, 1, 1), dtype=x.dtype, device=x.device).bernoulli_(1.0 - rate)
    return x * (keep / (1.0 - rate))
