"""Squeeze-and-excitation in Triton against PyTorch's in float64: on a GPU, or interpreted (`TRITON_INTERPRET=1`)."""

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from nasdeploy.nn.kernels.squeeze import scaled, squeezed

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
SHAPES = [(2, 8, 3, 5), (1, 72, 5, 4), (3, 5, 2, 2), (2, 16, 1, 6), (1, 136, 2, 3)]


def drawn(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """Images, a matrix between means and gate, and a gradient."""
    draw = torch.Generator().manual_seed(0)
    images, gradient = (torch.randn(shape, generator=draw).to(DEVICE, dtype) for _ in range(2))
    matrix = torch.randn(shape[1], shape[1], generator=draw).to(DEVICE, dtype)
    return [images.to(memory_format=torch.channels_last).requires_grad_(), matrix.requires_grad_(), gradient]


def gate_of(means: Tensor, matrix: Tensor) -> Tensor:
    return torch.sigmoid(means.flatten(1) @ matrix).view_as(means)


def ours(x: Tensor, matrix: Tensor) -> Tensor:
    images, means = squeezed(x)
    return scaled(images, gate_of(means, matrix))


def pytorchs(x: Tensor, matrix: Tensor) -> Tensor:
    return x * gate_of(x.mean((2, 3), keepdim=True), matrix)


def results(function: Any, x: Tensor, matrix: Tensor, gradient: Tensor) -> list[Tensor]:
    y = function(x, matrix)
    return [y.detach(), *torch.autograd.grad(y, [x, matrix], gradient)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_and_gradients_are_pytorchs(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    given = drawn(shape, dtype)
    wanted = results(pytorchs, *(each.detach().double().requires_grad_() for each in given))
    found = results(ours, *given)
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    for mine, right in zip(found, wanted, strict=True):
        assert mine.dtype == dtype
        error = 1e-5 if dtype == torch.float32 else 4 * torch.finfo(dtype).eps
        torch.testing.assert_close(mine.double(), right, rtol=0, atol=error * float(right.abs().max()))
