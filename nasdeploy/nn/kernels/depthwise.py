"""Depthwise convolutions in Triton that are not compiled anew for a new shape.

Images are in channels-last layout. Nothing is compiled in but the data type, kernel, stride, and whether the channels
come in eights; sides, channels, images and margins are arguments. Sums are in float32.

The channels of a column lie side by side, and so do the columns of a row: a row is one line of `width * channels`
numbers, whose part that is one column on lies `channels` further. Forward, and for the gradient of the images, a
program makes a piece of `BLOCK` times `VEC` numbers of such a line for `ROWS` rows at once. Thus no number of channels
wastes threads, each thread moves 16 bytes at once, and an image's number, once loaded, serves all of these rows. The
gradient of the weight keeps the sums of all taps in registers, and walks over places of the output; what programs have
summed is added in an order that is always the same.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from nasdeploy.nn.kernels.launching import VECTOR, aligned, launch, processors, vector

KERNELS, STRIDES = (3, 5, 7), (1, 2)
_ROWS, _BLOCK, _WARPS = 4, 128, 4
_STRIDED_ROWS = {3: 2, 5: 1, 7: 1}
"""Rows of output at once in the gradient of images for a stride of 2, by kernel; each is two rows of images."""
_WEIGHT_TILES = {
    (3, 1): (4, 32, 32, None),
    (3, 2): (2, 32, 32, None),
    (5, 1): (4, 8, 32, 168),
    (5, 2): (2, 8, 32, 168),
    (7, 1): (2, 8, 32, None),
    (7, 2): (2, 8, 32, None),
}
"""Rows of output at once, places, channels and registers in the gradient of the weight, by kernel and stride.

The `kernel ** 2 * places * channels / (32 * warps)` sums of a thread stay in its registers.
"""
_PROGRAMS = 6
"""The programs of the gradient of the weight for each multiprocessor."""


@triton.jit(
    do_not_specialize=[
        "height", "width", "out_height", "out_width", "groups", "before", "first_tap", "tap_step", "bands", "blocks",
    ]
)  # fmt: skip
def _convolve(
    x, taps, y, height, width, out_height, out_width, groups, before, first_tap, tap_step, bands, blocks,
    K: tl.constexpr, S: tl.constexpr, ROWS: tl.constexpr, VEC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write `ROWS` rows of `y`. Tap `i` is row `first_tap + tap_step * i` of `taps`, `[K * K, channels]`."""
    program = tl.program_id(0)
    band = program // blocks
    image = band // bands
    top = (band - image * bands) * ROWS
    place = (program - band * blocks) * BLOCK + tl.arange(0, BLOCK)[:, None]
    column = place // groups
    group = place - column * groups
    inside = place < out_width * groups
    vector = tl.arange(0, VEC)[None, :]
    left = column * S - before
    upper = top * S - before
    rows = image.to(tl.int64) * height + upper
    x += rows * width * groups * VEC
    offsets = (left * groups + group) * VEC + vector
    channel = group * VEC + vector
    sums = ()
    for _ in tl.static_range(ROWS):
        sums = sums + (tl.zeros([BLOCK, VEC], tl.float32),)
    for kx in range(K):
        seen = inside & (left + kx >= 0) & (left + kx < width)
        tap = ()
        for ky in tl.static_range(K):
            at = (first_tap + tap_step * (ky * K + kx)) * groups * VEC
            tap = tap + (tl.load(taps + at + channel, mask=inside, other=0.0).to(tl.float32),)
        images = ()
        for row in tl.static_range((ROWS - 1) * S + K):
            mask = seen & (upper + row >= 0) & (upper + row < height)
            at = (row * width + kx) * groups * VEC
            images = images + (tl.load(x + at + offsets, mask=mask, other=0.0).to(tl.float32),)
        new = ()
        for row in tl.static_range(ROWS):
            total = sums[row]
            for ky in tl.static_range(K):
                total += images[row * S + ky] * tap[ky]
            new = new + (total,)
        sums = new
    rows = image.to(tl.int64) * out_height + top
    y += rows * out_width * groups * VEC
    for row in tl.static_range(ROWS):
        at = row * out_width * groups * VEC
        tl.store(y + at + place * VEC + vector, sums[row].to(y.dtype.element_ty), inside & (top + row < out_height))


@triton.jit(
    do_not_specialize=[
        "height", "width", "out_height", "out_width", "groups", "before", "first_group", "columns", "bands", "blocks",
    ]
)  # fmt: skip
def _image_gradient(
    gradient, taps, x, height, width, out_height, out_width, groups, before, first_group, columns, bands, blocks,
    K: tl.constexpr, S: tl.constexpr, ROWS: tl.constexpr, VEC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the gradient `x` of images for `ROWS` times `S` rows.

    With the margin before them counted, row `S * a + p` gets tap `S * i + p` of output row `a - i`, and so do columns.
    A thread makes all `p` of its `a`, which read the same rows and columns of `gradient`.
    """
    TAPS: tl.constexpr = (K + S - 1) // S
    program = tl.program_id(0)
    band = program // blocks
    image = band // bands
    top = first_group + (band - image * bands) * ROWS
    place = (program - band * blocks) * BLOCK + tl.arange(0, BLOCK)[:, None]
    column = place // groups
    group = place - column * groups
    inside = place < columns * groups
    column += first_group
    vector = tl.arange(0, VEC)[None, :]
    channel = group * VEC + vector
    gradient += (image.to(tl.int64) * out_height + (top - (TAPS - 1))) * out_width * groups * VEC
    offsets = (column * groups + group) * VEC + vector
    sums = ()
    for _ in tl.static_range(ROWS * S * S):
        sums = sums + (tl.zeros([BLOCK, VEC], tl.float32),)
    for i in tl.static_range(TAPS):
        seen = inside & (column - i >= 0) & (column - i < out_width)
        gradients = ()
        for row in tl.static_range(ROWS + TAPS - 1):
            out_row = top - (TAPS - 1) + row
            mask = seen & (out_row >= 0) & (out_row < out_height)
            at = (row * out_width - i) * groups * VEC
            gradients = gradients + (tl.load(gradient + at + offsets, mask=mask, other=0.0).to(tl.float32),)
        new = ()
        for py in tl.static_range(S):
            for px in tl.static_range(S):
                tap = ()
                for j in tl.static_range(TAPS):
                    if j * S + py < K and i * S + px < K:
                        at = taps + ((j * S + py) * K + i * S + px) * groups * VEC + channel
                        tap = tap + (tl.load(at, mask=inside, other=0.0).to(tl.float32),)
                for row in tl.static_range(ROWS):
                    total = sums[(py * S + px) * ROWS + row]
                    for j in tl.static_range(TAPS):
                        if j * S + py < K and i * S + px < K:
                            total += gradients[row - j + TAPS - 1] * tap[j]
                    new = new + (total,)
        sums = new
    upper, left = top * S - before, column * S - before
    x += (image.to(tl.int64) * height + upper) * width * groups * VEC
    offsets = (left * groups + group) * VEC + vector
    for py in tl.static_range(S):
        for px in tl.static_range(S):
            written = inside & (left + px >= 0) & (left + px < width)
            for row in tl.static_range(ROWS):
                x_row = upper + row * S + py
                mask = written & (x_row >= 0) & (x_row < height)
                at = x + ((row * S + py) * width + px) * groups * VEC + offsets
                tl.store(at, sums[(py * S + px) * ROWS + row].to(x.dtype.element_ty), mask)


@triton.jit(
    do_not_specialize=["height", "width", "out_height", "out_width", "groups", "before", "places", "bands", "steps"]
)
def _weight_gradient(
    x, gradient, partial, height, width, out_height, out_width, groups, before, places, bands, steps,
    K: tl.constexpr, S: tl.constexpr, ROWS: tl.constexpr, VEC: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write a program's sums of the weight's gradient, `partial[chunk, K * K, channels]`, over `steps` tiles.

    A place of the `places` is an image, a band of `ROWS` rows of the output, and a column.
    """
    channels = groups * VEC
    chunk = tl.program_id(1)
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    present = (channel < channels)[None, :]
    lane = tl.arange(0, BLOCK_P)[:, None]
    per_image = bands * out_width
    sums = ()
    for _ in tl.static_range(K * K):
        sums = sums + (tl.zeros([BLOCK_P, BLOCK_C], tl.float32),)
    for step in range(chunk * steps, (chunk + 1) * steps):
        first = step * BLOCK_P
        image = first // per_image
        place = first - image * per_image + lane
        later = place // per_image
        rest = place - later * per_image
        band = rest // out_width
        column = rest - band * out_width
        top = band * ROWS
        upper = top * S - before
        left = column * S - before
        inside = present & (first + lane < places)
        of_gradient = gradient + (image.to(tl.int64) * out_height) * out_width * groups * VEC
        at = ((later * out_height + top) * out_width + column) * groups * VEC + channel[None, :]
        gradients = ()
        for row in tl.static_range(ROWS):
            loaded = tl.load(
                of_gradient + at + row * out_width * groups * VEC, mask=inside & (top + row < out_height), other=0.0
            )
            gradients = gradients + (loaded.to(tl.float32),)
        of_x = x + (image.to(tl.int64) * height) * width * groups * VEC
        at = ((later * height + upper) * width + left) * groups * VEC + channel[None, :]
        new = ()
        for kx in tl.static_range(K):
            seen = inside & (left + kx >= 0) & (left + kx < width)
            images = ()
            for row in tl.static_range((ROWS - 1) * S + K):
                mask = seen & (upper + row >= 0) & (upper + row < height)
                loaded = tl.load(of_x + at + (row * width + kx) * groups * VEC, mask=mask, other=0.0)
                images = images + (loaded.to(tl.float32),)
            for ky in tl.static_range(K):
                total = sums[kx * K + ky]
                for row in tl.static_range(ROWS):
                    total += images[row * S + ky] * gradients[row]
                new = new + (total,)
        sums = new
    for kx in tl.static_range(K):
        for ky in tl.static_range(K):
            at = (chunk * (K * K) + ky * K + kx) * groups * VEC
            tl.store(partial + at + channel, tl.sum(sums[kx * K + ky], axis=0), channel < channels)


def depthwise(x: Tensor, weight: Tensor, stride: int, margins: tuple[int, int]) -> Tensor:
    """Return the convolution of images `[N, C, H, W]` with a weight `[C, 1, k, k]`, of one data type.

    There are zeros before and after rows and columns, as many as `margins` say. The output lies channels-last. It can
    be differentiated once.
    """
    y: Tensor = _DepthwiseOnGpu.apply(x, weight, stride, margins)
    return y


def launch_all(dtype: torch.dtype, device: torch.device) -> None:
    """Launch what convolutions of the usual kernels need, once each."""
    for kernel, stride in product(KERNELS[:2], STRIDES):
        x = torch.empty((1, VECTOR, kernel, kernel), dtype=dtype, device=device)
        taps = torch.empty((kernel, kernel, VECTOR), dtype=dtype, device=device)
        side = (kernel - 1) // stride + 1
        y = _convolved(x, taps, stride, kernel // 2, (side, side), flipped=False)
        _gradient_of_weight(x, y, kernel, stride, kernel // 2)
        if stride > 1:
            _strided_image_gradient(y, taps, stride, kernel // 2, x.shape)


class _DepthwiseOnGpu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, margins: tuple[int, int]) -> Tensor:
        kernel = weight.shape[-1]
        x = aligned(x)
        taps = weight[:, 0].permute(1, 2, 0).contiguous()
        of_x, of_weight = ctx.needs_input_grad[:2]
        ctx.save_for_backward(x if of_weight else None, taps if of_x else None)
        ctx.geometry = x.shape, kernel, stride, margins[0]
        out = [(side + sum(margins) - kernel) // stride + 1 for side in x.shape[2:]]
        with torch.cuda.device_of(x):
            return _convolved(x, taps, stride, margins[0], out, flipped=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, taps = ctx.saved_tensors
        shape, kernel, stride, before = ctx.geometry
        gradient = aligned(gradients[0])
        of_x = of_weight = None
        with torch.cuda.device_of(gradient):
            if taps is not None and stride == 1:
                of_x = _convolved(gradient, taps, 1, kernel - 1 - before, list(shape[2:]), flipped=True)
            elif taps is not None:
                of_x = _strided_image_gradient(gradient, taps, stride, before, shape)
            if x is not None:
                of_weight = _gradient_of_weight(x, gradient, kernel, stride, before)
        return of_x, of_weight, None, None


def _convolved(x: Tensor, taps: Tensor, stride: int, before: int, out: Sequence[int], *, flipped: bool) -> Tensor:
    """Return the convolution, of sides `out`, with taps `[k, k, C]`, which may be turned by half a circle."""
    images, channels, height, width = x.shape
    kernel, (out_height, out_width) = len(taps), out
    y = torch.empty((images, channels, *out), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    vec = vector(channels)
    block = _BLOCK * VECTOR // vec
    groups, bands = channels // vec, -(-out_height // _ROWS)
    blocks = -(-out_width * groups // block)
    first, step = (kernel * kernel - 1, -1) if flipped else (0, 1)
    grid = (images * bands * blocks,)
    sizes = (height, width, out_height, out_width, groups, before, first, step, bands, blocks)
    constants = (kernel, stride, _ROWS, vec, block)
    _launch(_convolve, grid, (x, taps, y, *sizes), constants)
    return y


def _strided_image_gradient(gradient: Tensor, taps: Tensor, stride: int, before: int, shape: torch.Size) -> Tensor:
    """Return the gradient of images of `shape`, for a stride over 1."""
    images, channels, height, width = shape
    out_height, out_width = gradient.shape[2:]
    x = torch.empty(shape, dtype=gradient.dtype, device=gradient.device, memory_format=torch.channels_last)
    kernel, vec = len(taps), vector(channels)
    rows, block = _STRIDED_ROWS[kernel], _BLOCK * VECTOR // vec
    groups, first = channels // vec, before // stride
    bands = -(-((before + height - 1) // stride - first + 1) // rows)
    columns = (before + width - 1) // stride - first + 1
    blocks = -(-columns * groups // block)
    grid = (images * bands * blocks,)
    sizes = (height, width, out_height, out_width, groups, before, first, columns, bands, blocks)
    constants = (kernel, stride, rows, vec, block)
    _launch(_image_gradient, grid, (gradient, taps, x, *sizes), constants)
    return x


def _gradient_of_weight(x: Tensor, gradient: Tensor, kernel: int, stride: int, before: int) -> Tensor:
    """Return the gradient of a weight `[C, 1, k, k]`, contiguous."""
    images, channels, height, width = x.shape
    out_height, out_width = gradient.shape[2:]
    rows, block_p, block_c, registers = _WEIGHT_TILES[kernel, stride]
    vec, bands = vector(channels), -(-out_height // rows)
    places = images * bands * out_width
    tiles, pieces = -(-places // block_p), -(-channels // block_c)
    steps = -(-tiles // max(1, _PROGRAMS * processors(x.device) // pieces))
    chunks = -(-tiles // steps)
    partial = torch.empty((chunks, kernel, kernel, channels), dtype=torch.float32, device=x.device)
    grid = (pieces, chunks)
    sizes = (height, width, out_height, out_width, channels // vec, before, places, bands, steps)
    constants = (kernel, stride, rows, vec, block_p, block_c)
    _launch(_weight_gradient, grid, (x, gradient, partial, *sizes), constants, maxnreg=registers)
    total = partial[0] if chunks == 1 else partial.sum(0)
    return total.permute(2, 0, 1).unsqueeze(1).to(x.dtype).contiguous()


def _launch(
    kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], constants: tuple[int, ...], **options: int | None
) -> None:
    images: Tensor = arguments[0]
    launch(kernel, grid, (images.device, images.dtype), arguments, constants, num_warps=_WARPS, num_stages=1, **options)
