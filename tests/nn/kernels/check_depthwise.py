"""Depthwise convolutions in Triton against PyTorch's in float64: on a GPU, or interpreted (`TRITON_INTERPRET=1`)."""

import os
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nasdeploy.nn.kernels.depthwise import depthwise

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
CASES = [
    # Images, channels, rows, columns, kernel, stride, margins.
    (2, 8, 5, 6, 3, 1, (1, 1)),
    (1, 16, 7, 5, 5, 1, (2, 2)),
    (1, 8, 6, 6, 7, 1, (3, 3)),
    (2, 8, 6, 7, 3, 2, (1, 1)),
    (1, 8, 6, 6, 3, 2, (0, 1)),
    (2, 24, 7, 6, 5, 2, (1, 2)),
    (1, 8, 9, 9, 7, 2, (3, 3)),
    (2, 5, 4, 4, 3, 1, (1, 1)),
    (1, 3, 5, 5, 5, 2, (2, 2)),
    (3, 8, 2, 2, 5, 1, (2, 2)),
    (1, 72, 3, 3, 3, 1, (1, 1)),
]


def drawn(case: tuple[Any, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    images, channels, height, width, kernel, *_ = case
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(images, channels, height, width, generator=draw).to(DEVICE, dtype)
    weight = torch.randn(channels, 1, kernel, kernel, generator=draw).to(DEVICE, dtype)
    return x.to(memory_format=torch.channels_last).requires_grad_(), weight.requires_grad_()


def results(convolve: Any, x: Tensor, weight: Tensor) -> list[Tensor]:
    """The output, and the gradients of both arguments for one of the output that is not constant."""
    y = convolve(x, weight)
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    return [y.detach(), *torch.autograd.grad(y, [x, weight], gradient)]


def assert_right(case: tuple[Any, ...], dtype: torch.dtype, error: float) -> None:
    stride, (before, after) = case[5], case[6]
    x, weight = drawn(case, dtype)

    def exact(x: Tensor, weight: Tensor) -> Tensor:
        padded = F.pad(x, (before, after, before, after))
        return F.conv2d(padded, weight, None, stride, groups=len(weight))

    wanted = results(exact, *(each.detach().double().requires_grad_() for each in (x, weight)))
    found = results(lambda x, weight: depthwise(x, weight, stride, (before, after)), x, weight)
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    for ours, right in zip(found, wanted, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), right, rtol=0, atol=error * float(right.abs().max()))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_outputs_and_gradients_are_those_of_a_convolution(case: tuple[Any, ...]) -> None:
    assert_right(case, torch.float32, 1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES[:1] if INTERPRETED else CASES, ids=str)
def test_fewer_bits_round_the_result_alone(case: tuple[Any, ...], dtype: torch.dtype) -> None:
    # The interpreter cuts off what a GPU rounds.
    assert_right(case, dtype, (2 if INTERPRETED else 1) * torch.finfo(dtype).eps)


def test_what_needs_no_gradient_gets_none() -> None:
    x, weight = drawn(CASES[0], torch.float32)
    (found,) = torch.autograd.grad(depthwise(x.detach(), weight, 1, (1, 1)).sum(), [weight])
    assert found.shape == weight.shape
    (found,) = torch.autograd.grad(depthwise(x, weight.detach(), 1, (1, 1)).sum(), [x])
    assert found.shape == x.shape
