"""The two ends of squeeze-and-excitation in Triton: means of an image's channels, and their scaling by a gate.

Images are in channels-last layout. PyTorch makes five tensors of the images' size on the way back, where these kernels
make two: the gradient of the product and the sums for the gate come of one pass, and what the mean adds of another. A
program computes some channels of one image.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from nasdeploy.nn.kernels.launching import VECTOR, aligned, launch, vector

_PLACES, _CHANNELS, _WARPS = 16, 64, 4


@triton.jit(do_not_specialize=["places", "groups"])
def _means(x, means, places, groups, VEC: tl.constexpr, PLACES: tl.constexpr, CHANNELS: tl.constexpr):
    """Write the means `[N, C]` over the places of images."""
    image, channel = tl.program_id(0), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    present, row = (channel < groups * VEC)[None, :], tl.arange(0, PLACES)[:, None]
    x += image.to(tl.int64) * places * groups * VEC
    sums = tl.zeros([PLACES, CHANNELS], tl.float32)
    for first in range(0, places, PLACES):
        inside = present & (first + row < places)
        sums += tl.load(x + (first + row) * groups * VEC + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    found = tl.sum(sums, axis=0) / places
    tl.store(means + image * groups * VEC + channel, found.to(means.dtype.element_ty), channel < groups * VEC)


@triton.jit(do_not_specialize=["places", "groups"])
def _scale(x, gate, y, places, groups, VEC: tl.constexpr, PLACES: tl.constexpr, CHANNELS: tl.constexpr):
    """Write `y`: images times their channels' gates `[N, C]`."""
    image, channel = tl.program_id(0), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    present, row = (channel < groups * VEC)[None, :], tl.arange(0, PLACES)[:, None]
    base = image.to(tl.int64) * places * groups * VEC
    factor = tl.load(gate + image * groups * VEC + channel, mask=channel < groups * VEC, other=0.0).to(tl.float32)
    for first in range(0, places, PLACES):
        inside = present & (first + row < places)
        at = (first + row) * groups * VEC + channel[None, :]
        found = tl.load(x + base + at, mask=inside, other=0.0).to(tl.float32) * factor[None, :]
        tl.store(y + base + at, found.to(y.dtype.element_ty), inside)


@triton.jit(do_not_specialize=["places", "groups"])
def _scale_back(
    gradient, x, gate, of_x, of_gate, places, groups, VEC: tl.constexpr, PLACES: tl.constexpr, CHANNELS: tl.constexpr
):
    """Write the gradients of the images and of the gates `[N, C]`."""
    image, channel = tl.program_id(0), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    present, row = (channel < groups * VEC)[None, :], tl.arange(0, PLACES)[:, None]
    base = image.to(tl.int64) * places * groups * VEC
    factor = tl.load(gate + image * groups * VEC + channel, mask=channel < groups * VEC, other=0.0).to(tl.float32)
    sums = tl.zeros([PLACES, CHANNELS], tl.float32)
    for first in range(0, places, PLACES):
        inside = present & (first + row < places)
        at = base + (first + row) * groups * VEC + channel[None, :]
        given = tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32)
        sums += given * tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(of_x + at, (given * factor[None, :]).to(of_x.dtype.element_ty), inside)
    found = tl.sum(sums, axis=0)
    tl.store(of_gate + image * groups * VEC + channel, found.to(of_gate.dtype.element_ty), channel < groups * VEC)


@triton.jit(do_not_specialize=["places", "groups"])
def _means_back(
    gradient, of_means, of_x, places, groups, VEC: tl.constexpr, PLACES: tl.constexpr, CHANNELS: tl.constexpr
):
    """Write a gradient of images and what each place has of that of the means `[N, C]`."""
    image, channel = tl.program_id(0), tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    present, row = (channel < groups * VEC)[None, :], tl.arange(0, PLACES)[:, None]
    base = image.to(tl.int64) * places * groups * VEC
    share = tl.load(of_means + image * groups * VEC + channel, mask=channel < groups * VEC, other=0.0).to(tl.float32)
    share = share / places
    for first in range(0, places, PLACES):
        inside = present & (first + row < places)
        at = base + (first + row) * groups * VEC + channel[None, :]
        found = tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32) + share[None, :]
        tl.store(of_x + at, found.to(of_x.dtype.element_ty), inside)


def squeezed(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return images `[N, C, H, W]`, which are to be `scaled`, and the means `[N, C, 1, 1]` of their channels."""
    images, means = _Squeeze.apply(x)
    return images, means


def scaled(images: Tensor, gate: Tensor) -> Tensor:
    """Return images `[N, C, H, W]` times the gates `[N, C, 1, 1]` of their channels."""
    y: Tensor = _ScaleOnGpu.apply(images, gate)
    return y


def launch_all(dtype: torch.dtype, device: torch.device) -> None:
    """Launch each kernel once."""
    x, gate = (torch.empty(shape, dtype=dtype, device=device) for shape in ((1, VECTOR, 2, 2), (1, VECTOR)))
    _launched(_means, x, x, gate)
    _launched(_means_back, x, x, gate, x)
    _launched(_scale, x, x, gate, x)
    _launched(_scale_back, x, x, x, gate, x, gate)


class _Squeeze(torch.autograd.Function):
    """Gives the images on, so that the gradients of both results come together."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        x = aligned(x)
        means = torch.empty((*x.shape[:2], 1, 1), dtype=x.dtype, device=x.device)
        _launched(_means, x, x, means)
        return x, means

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient, of_means = aligned(gradients[0]), gradients[1].contiguous()
        of_x = torch.empty_like(gradient)
        _launched(_means_back, gradient, gradient, of_means, of_x)
        return of_x


class _ScaleOnGpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, gate: Tensor) -> Tensor:
        gate = gate.contiguous()
        y = torch.empty_like(images)
        _launched(_scale, images, images, gate, y)
        ctx.save_for_backward(images, gate)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        images, gate = ctx.saved_tensors
        of_images, of_gate = torch.empty_like(images), torch.empty_like(gate)
        _launched(_scale_back, images, aligned(gradients[0]), images, gate, of_images, of_gate)
        return of_images, of_gate


def _launched(kernel: Any, images: Tensor, *tensors: Tensor) -> None:
    """Launch a kernel for all images and channels."""
    count, channels, height, width = images.shape
    vec = vector(channels)
    grid, arguments = (count, -(-channels // _CHANNELS)), (*tensors, height * width, channels // vec)
    with torch.cuda.device_of(images):
        kind = (images.device, *(tensor.dtype for tensor in tensors))
        launch(kernel, grid, kind, arguments, (vec, _PLACES, _CHANNELS), num_warps=_WARPS)
