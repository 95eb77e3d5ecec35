"""A trial of all kernels against PyTorch, before any of them is relied on."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from nasdeploy.nn.kernels.depthwise import depthwise
from nasdeploy.nn.kernels.normalisation import batch_norm
from nasdeploy.nn.kernels.squeeze import scaled, squeezed

_CHANNELS, _SIDE = 16, 6


def agree(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether outputs and gradients are those of PyTorch in float32, up to rounding, each time of two."""
    draw = torch.Generator().manual_seed(0)
    shapes = ((2, _CHANNELS, _SIDE, _SIDE), *((_CHANNELS, 1, kernel, kernel) for kernel in (3, 5)), (2, _CHANNELS))
    given = [torch.randn(shape, generator=draw).to(device, dtype) for shape in shapes]
    wanted = _results(_by_pytorch, [tensor.float() for tensor in given])
    found = [_results(_by_kernels, given) for _ in range(2)]
    # Some operations follow on each other, and each rounds.
    most = 16 * torch.finfo(dtype).eps
    pairs = ((ours, right) for each in found for ours, right in zip(each, wanted, strict=True))
    return all(float((ours.float() - right).abs().max()) <= most * float(right.abs().max()) for ours, right in pairs)


def _results(compute: Callable[..., Tensor], given: list[Tensor]) -> list[Tensor]:
    """Return the output, and the gradients of all that is given."""
    with torch.enable_grad(), torch.autocast(given[0].device.type, enabled=False):
        leaves = [tensor.detach().requires_grad_() for tensor in given]
        y = compute(leaves[0].contiguous(memory_format=torch.channels_last), *leaves[1:])
        return [y.detach(), *torch.autograd.grad(y.square().sum(), leaves)]


def _by_kernels(x: Tensor, small: Tensor, large: Tensor, norm: Tensor) -> Tensor:
    y = batch_norm(depthwise(x, small, 1, (1, 1)), norm[0].float(), norm[1].float(), 1e-5, "none", x)
    images, means = squeezed(y)
    return depthwise(scaled(images, torch.sigmoid(means)), large, 2, (2, 2))


def _by_pytorch(x: Tensor, small: Tensor, large: Tensor, norm: Tensor) -> Tensor:
    y = F.conv2d(x, small, padding=1, groups=_CHANNELS)
    y = F.batch_norm(y, None, None, norm[0], norm[1], True, 0.0, 1e-5) + x
    y = y * torch.sigmoid(y.mean((2, 3), keepdim=True))
    return F.conv2d(y, large, stride=2, padding=2, groups=_CHANNELS)
