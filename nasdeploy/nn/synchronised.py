"""Batch normalisation over the batches of all processes; torch's own works on GPUs only, and not on sliced weights."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes; so is its gradient."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def synchronised_batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """`[N, channels, H, W]` normalised by the mean and variance over all processes' samples and positions.

    One reduction of count, sums and sums of squares, in float32 at least.
    """
    channels, exact = x.shape[1], x if x.dtype == torch.float64 else x.float()
    count = exact.new_tensor([x.numel() / channels])
    own = torch.cat([exact.sum((0, 2, 3)), exact.square().sum((0, 2, 3)), count])
    sums, squares, total = _Sum.apply(own).split([channels, channels, 1])
    mean = sums / total
    scale = weight * torch.rsqrt((squares / total - mean.square()).clamp(min=0) + eps)
    return x * _per_channel(scale, x) + _per_channel(bias - mean * scale, x)


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    return values.to(x.dtype).view(1, -1, 1, 1)
