"""Batch normalisation with an activation or a residual, fused for training on NVIDIA GPUs, in Triton.

Memory limits both passes: forward, images are read twice and written once; backward, they and the gradient are read
twice, and that of the images is written once. Images, means and inverse deviations are kept for the backward pass.

Images are in channels-last layout: `[rows, channels]`, where a row is a position in an image. `fold` rows side by side
make a long row of a matrix `[rows / fold, fold * channels]` of the same bytes, whose width fills blocks of `BLOCK`
columns. A column holds every `fold`-th row of one channel. What is summed over chunks of long rows by columns,
`[chunks, fold * channels]`, is also `[pieces, channels]`, and so it is summed up. All is computed in float32, and
summed in a fixed order. Sizes are arguments; data types, the activation and whether channels come in eights are
compiled in. Kernels that read images for the second time walk backwards: what was read last is still in the cache.
"""

from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from nasdeploy.nn.kernels.launching import VECTOR, aligned, compiling, launch, processors, vector

BLOCK = 128
"""Columns of a program."""
LANES, UNROLL, GRADIENT_UNROLL = 16, 4, 2
"""Long rows with sums of their own, and how many times as many, a tile, are read at once; and with gradients beside."""
WARPS, REGISTERS, PROGRAMS_PER_PROCESSOR = 8, 80, 3
"""Threads, of 32, and their registers in a program, and programs, such that all run from the start."""
MERGED_PIECES, MERGED_CHANNELS = 512, 4
"""Statistics of pieces that a program of `_merge_statistics` reads at once."""
_SIZES = ["groups", "width", "full", "rest", "steps", "rows", "channels", "pieces", "odd", "span", "fold", "eps"]
_PARAMETERS = ["weight", "bias"]


@triton.jit
@no_type_check
def _columns(groups, width, full, rest, vec: tl.constexpr, block: tl.constexpr):
    """Return the program's columns, their channels, and how many long rows they have: none beyond the width."""
    column = tl.program_id(0) * block + tl.arange(0, block)
    group = column // vec
    channel = (group % groups) * vec + column % vec
    return column, channel, tl.where(group < width, full + (group < rest).to(tl.int32), 0)


@triton.jit
@no_type_check
def _affine(statistics, weight, bias, channel, channels):
    """Return mean, inverse deviation, scale and shift of channels; `(x - mean) * scale + shift` is normalised."""
    inverse = tl.load(statistics + channels + channel)[None, :]
    scale = inverse * tl.load(weight + channel).to(tl.float32)[None, :]
    return tl.load(statistics + channel)[None, :], inverse, scale, tl.load(bias + channel).to(tl.float32)[None, :]


@triton.jit
@no_type_check
def _sigmoid(z):
    # By powers of two, and by the square of an inverse root: `exp` and a division take twice as many instructions.
    root = tl.rsqrt(1.0 + tl.exp2(z * -1.4426950408889634))
    return root * root


@triton.jit
@no_type_check
def _activated(z, activation: tl.constexpr):
    """Return the activation of `z`; the comparisons are such that NaN stays NaN."""
    if activation == "swish":
        z = z * _sigmoid(z)
    elif activation == "relu":
        z = tl.where(z <= 0.0, 0.0, z)
    elif activation == "relu6":
        z = tl.where(z <= 0.0, 0.0, tl.where(z >= 6.0, 6.0, z))
    elif activation == "hswish":
        z = tl.where(z <= -3.0, 0.0, tl.where(z >= 3.0, z, z * (z + 3.0) * (1.0 / 6.0)))
    return z


@triton.jit
@no_type_check
def _through(gradient, z, activation: tl.constexpr):
    """Return the gradient of the activation's input `z`, at kinks as PyTorch defines it."""
    if activation == "swish":
        sigmoid = _sigmoid(z)
        gradient = gradient * (sigmoid + z * sigmoid * (1.0 - sigmoid))
    elif activation == "relu":
        gradient = tl.where(z <= 0.0, 0.0, gradient)
    elif activation == "relu6":
        gradient = tl.where((z <= 0.0) | (z >= 6.0), 0.0, gradient)
    elif activation == "hswish":
        gradient = tl.where(z <= -3.0, 0.0, tl.where(z >= 3.0, gradient, gradient * (z * (1.0 / 3.0) + 0.5)))
    return gradient


@triton.jit
@no_type_check
def _merged(count, mean, squares, number, own_mean, own_squares):
    """Return count, mean and sum of squared deviations of two sets together, by Chan's formula."""
    total = count + number
    share = number / tl.maximum(total, 1.0)
    change = own_mean - mean
    return total, mean + change * share, squares + own_squares + change * change * (count * share)


@triton.jit
@no_type_check
def _summed(count, mean, squares):
    """Return the same of all sets along the first axis together: count, mean, and sum of squared deviations."""
    total = tl.sum(count, axis=0)
    common = tl.sum(mean * count, axis=0) / tl.maximum(total, 1.0)
    change = mean - common[None, :]
    return total, common, tl.sum(squares + change * change * count, axis=0)


@triton.jit(do_not_specialize=_SIZES)
@no_type_check
def _collect(
    x, partial, groups, width, full, rest, steps,
    vec: tl.constexpr, block: tl.constexpr, lanes: tl.constexpr, unroll: tl.constexpr,
):  # fmt: skip
    """Write each chunk's means and sums of squared deviations, `partial[2, chunks, width * vec]`."""
    column, _, limit = _columns(groups, width, full, rest, vec, block)
    lane, stride = tl.arange(0, lanes)[:, None], width * vec
    first = tl.program_id(1) * steps * (lanes * unroll)
    x += first.to(tl.int64) * stride
    offsets = lane * stride + column[None, :]
    mean = tl.zeros([lanes, block], tl.float32)
    squares = tl.zeros([lanes, block], tl.float32)
    # In these tiles no column lacks rows, so that counts are the same everywhere.
    whole = tl.minimum(steps, (full - first) // (lanes * unroll))
    for step in range(whole):
        loaded = ()
        for i in tl.static_range(unroll):
            loaded += (tl.load(x + i * lanes * stride + offsets, (column < stride)[None, :], 0.0),)
        own = loaded[0].to(tl.float32)
        for i in tl.static_range(1, unroll):
            own += loaded[i].to(tl.float32)
        own *= 1.0 / unroll
        own_squares = tl.zeros([lanes, block], tl.float32)
        for i in tl.static_range(unroll):
            deviation = loaded[i].to(tl.float32) - own
            own_squares += deviation * deviation
        _after, mean, squares = _merged(step * (1.0 * unroll), mean, squares, 1.0 * unroll, own, own_squares)
        x += lanes * unroll * stride
    count = tl.zeros([lanes, block], tl.float32) + whole * (1.0 * unroll)
    left = limit[None, :] - first - whole * (lanes * unroll)
    for _ in range(tl.minimum(steps - whole, 1) * unroll):
        loaded = tl.load(x + offsets, lane < left, 0.0).to(tl.float32)
        count, mean, squares = _merged(count, mean, squares, (lane < left).to(tl.float32), loaded, 0.0)
        left -= lanes
        x += lanes * stride
    _total, total_mean, total_squares = _summed(count, mean, squares)
    partial += tl.program_id(1).to(tl.int64) * stride
    tl.store(partial + column, total_mean, column < stride)
    partial += tl.num_programs(1).to(tl.int64) * stride
    tl.store(partial + column, total_squares, column < stride)


@triton.jit(do_not_specialize=_SIZES)
@no_type_check
def _merge_statistics(
    partial, statistics, eps, channels, pieces, full, odd, span, fold,
    many_pieces: tl.constexpr, many_channels: tl.constexpr,
):  # fmt: skip
    """Write means and inverse deviations, `statistics[2, channels]`, from `partial[2, pieces, channels]`."""
    channel = tl.program_id(0) * many_channels + tl.arange(0, many_channels)
    count = tl.zeros([many_pieces, many_channels], tl.float32)
    mean = tl.zeros([many_pieces, many_channels], tl.float32)
    squares = tl.zeros([many_pieces, many_channels], tl.float32)
    for start in range(0, pieces, many_pieces):
        piece = start + tl.arange(0, many_pieces)[:, None]
        mask = (piece < pieces) & (channel < channels)[None, :]
        at = partial + piece * channels + channel[None, :]
        # A piece is what one chunk, of `span` long rows, has in a column; the first `odd` columns have one row more.
        chunk = piece // fold
        limit = full + (piece - chunk * fold < odd).to(tl.int32)
        number = tl.where(mask, tl.maximum(tl.minimum(limit - chunk * span, span), 0), 0).to(tl.float32)
        own_mean, own_squares = tl.load(at, mask, 0.0), tl.load(at + pieces * channels, mask, 0.0)
        count, mean, squares = _merged(count, mean, squares, number, own_mean, own_squares)
    total, total_mean, total_squares = _summed(count, mean, squares)
    tl.store(statistics + channel, total_mean, channel < channels)
    inverse = 1.0 / tl.sqrt(total_squares / tl.maximum(total, 1.0) + eps)
    tl.store(statistics + channels + channel, inverse, channel < channels)


@triton.jit(do_not_specialize=_SIZES, do_not_specialize_on_alignment=_PARAMETERS)
@no_type_check
def _normalise(
    x, residual, statistics, weight, bias, y,
    groups, width, full, rest, steps,
    activation: tl.constexpr, add: tl.constexpr, vec: tl.constexpr, block: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Write `y`: the activation of normalised `x`, or with `add` normalised `x` plus `residual`."""
    column, channel, limit = _columns(groups, width, full, rest, vec, block)
    mean, _, scale, shift = _affine(statistics, weight, bias, channel, groups * vec)
    row, stride = tl.arange(0, tile)[:, None], width * vec
    offsets = row * stride + column[None, :]
    for step in range(steps):
        first = ((tl.program_id(1) + 1) * steps - 1 - step) * tile
        at = first.to(tl.int64) * stride
        mask = row < limit[None, :] - first
        z = (tl.load(x + at + offsets, mask, 0.0).to(tl.float32) - mean) * scale + shift
        if add:
            z += tl.load(residual + at + offsets, mask, 0.0).to(tl.float32)
        tl.store(y + at + offsets, _activated(z, activation).to(y.dtype.element_ty), mask)


@triton.jit(do_not_specialize=_SIZES, do_not_specialize_on_alignment=_PARAMETERS)
@no_type_check
def _collect_gradients(
    x, gradient, statistics, weight, bias, partial,
    groups, width, full, rest, steps,
    activation: tl.constexpr, vec: tl.constexpr, block: tl.constexpr, lanes: tl.constexpr, unroll: tl.constexpr,
):  # fmt: skip
    """Write each chunk's parts of the gradients of bias and weight, `partial[2, chunks, width * vec]`."""
    column, channel, limit = _columns(groups, width, full, rest, vec, block)
    mean, inverse, scale, shift = _affine(statistics, weight, bias, channel, groups * vec)
    lane, stride = tl.arange(0, lanes)[:, None], width * vec
    offsets = lane * stride + column[None, :]
    plain = tl.zeros([lanes, block], tl.float32)
    product = tl.zeros([lanes, block], tl.float32)
    for step in range(steps):
        first = (tl.program_id(1) * steps + step) * (lanes * unroll)
        loaded, gradients = (), ()
        for i in tl.static_range(unroll):
            at = first.to(tl.int64) * stride + i * lanes * stride
            mask = lane < limit[None, :] - first - i * lanes
            loaded += (tl.load(x + at + offsets, mask, 0.0),)
            gradients += (tl.load(gradient + at + offsets, mask, 0.0),)
        for i in tl.static_range(unroll):
            deviation = loaded[i].to(tl.float32) - mean
            own = _through(gradients[i].to(tl.float32), deviation * scale + shift, activation)
            plain += own
            product += own * deviation
    partial += tl.program_id(1).to(tl.int64) * stride
    tl.store(partial + column, tl.sum(plain, axis=0), column < stride)
    partial += tl.num_programs(1).to(tl.int64) * stride
    tl.store(partial + column, tl.sum(product * inverse, axis=0), column < stride)


@triton.jit(do_not_specialize=_SIZES, do_not_specialize_on_alignment=_PARAMETERS)
@no_type_check
def _image_gradient(
    x, gradient, statistics, weight, bias, sums, of_x,
    groups, width, full, rest, steps, rows,
    activation: tl.constexpr, vec: tl.constexpr, block: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Write the gradient `of_x`; `sums[2, channels]` are those of bias and weight."""
    column, channel, limit = _columns(groups, width, full, rest, vec, block)
    mean, inverse, scale, shift = _affine(statistics, weight, bias, channel, groups * vec)
    level = tl.load(sums + channel)[None, :] / rows
    slope = tl.load(sums + groups * vec + channel)[None, :] * inverse / rows
    row, stride = tl.arange(0, tile)[:, None], width * vec
    offsets = row * stride + column[None, :]
    for step in range(steps):
        first = ((tl.program_id(1) + 1) * steps - 1 - step) * tile
        at = first.to(tl.int64) * stride
        mask = row < limit[None, :] - first
        deviation = tl.load(x + at + offsets, mask, 0.0).to(tl.float32) - mean
        own = tl.load(gradient + at + offsets, mask, 0.0).to(tl.float32)
        own = _through(own, deviation * scale + shift, activation) - level - deviation * slope
        tl.store(of_x + at + offsets, (scale * own).to(of_x.dtype.element_ty), mask)


class _Plan(NamedTuple):
    """How programs share a matrix `[rows, channels]`."""

    grid: tuple[int, int, int]
    """Blocks of columns, and chunks of long rows."""
    vec: int
    sizes: tuple[int, int, int, int]
    """Vectors in a row and in a long row, whole long rows, and vectors of a last one."""
    steps: int
    """Tiles of a chunk."""
    pieces: tuple[int, int, int, int, int]
    """Pieces, whole long rows, rows beside them, long rows of a chunk, and rows of a long one."""


@lru_cache(maxsize=65536)
def _plan(rows: int, channels: int, device: torch.device) -> _Plan:
    vec, fold, tile = vector(channels), 1, LANES * UNROLL
    # At most a sixteenth of the lanes may be idle. None is where the fold is `BLOCK`.
    while -(-channels * fold // BLOCK) * BLOCK * 15 > channels * fold * 16:
        fold *= 2
    groups, (full, odd), blocks = channels // vec, divmod(rows, fold), -(-channels * fold // BLOCK)
    tiles = -(-rows // (fold * tile))
    steps = -(-tiles // max(1, PROGRAMS_PER_PROCESSOR * processors(device) // blocks))
    chunks = -(-tiles // steps)
    sizes, pieces = (groups, groups * fold, full, groups * odd), (chunks * fold, full, odd, steps * tile, fold)
    return _Plan((blocks, chunks, 1), vec, sizes, steps, pieces)


@dataclass(frozen=True)
class _Normalised:
    """What is normalised how, and in what follows: images in their layout, scales, shifts, epsilon and activation."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    eps: float
    activation: str

    def forward(self, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the output, and means and inverse deviations `[2, C]`."""
        x, channels = self.x, self.x.shape[1]
        y, statistics = torch.empty_like(x), torch.empty((2, channels), dtype=torch.float32, device=x.device)
        grid, vec, sizes, steps, pieces = _plan(x.numel() // channels, channels, x.device)
        partial = torch.empty((2, pieces[0], channels), dtype=torch.float32, device=x.device)
        self._launch(_collect, grid, (x, partial, *sizes, steps), (vec, BLOCK, LANES, UNROLL))
        merging = (-(-channels // MERGED_CHANNELS), 1, 1)
        arguments = (partial, statistics, self.eps, channels, *pieces)
        self._launch(_merge_statistics, merging, arguments, (MERGED_PIECES, MERGED_CHANNELS))
        added = x if residual is None else residual
        arguments = (x, added, statistics, self.weight, self.bias, y, *sizes, steps)
        constants = (self.activation, residual is not None, vec, BLOCK, LANES * UNROLL)
        self._launch(_normalise, grid, arguments, constants)
        return y, statistics

    def backward(self, gradient: Tensor, statistics: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of the images, and of shifts and scales `[2, C]`."""
        x, channels = self.x, self.x.shape[1]
        of_x, rows = torch.empty_like(x), x.numel() // channels
        grid, vec, sizes, steps, pieces = _plan(rows, channels, x.device)
        steps *= UNROLL // GRADIENT_UNROLL
        partial = torch.empty((2, pieces[0], channels), dtype=torch.float32, device=x.device)
        tensors = (x, gradient, statistics, self.weight, self.bias)
        constants: tuple[Any, ...] = (self.activation, vec, BLOCK, LANES, GRADIENT_UNROLL)
        self._launch(_collect_gradients, grid, (*tensors, partial, *sizes, steps), constants)
        sums = partial.sum(1)
        constants = (self.activation, vec, BLOCK, LANES * GRADIENT_UNROLL)
        self._launch(_image_gradient, grid, (*tensors, sums, of_x, *sizes, steps, float(rows)), constants)
        return of_x, sums

    def _launch(
        self, kernel: Any, grid: tuple[int, int, int], arguments: tuple[Any, ...], constants: tuple[Any, ...]
    ) -> None:
        # Sizes are not specialised on, nor where parameters start; all else starts at multiples of 16 bytes.
        kind = (self.x.device, self.x.dtype, self.weight.dtype, self.bias.dtype)
        launch(kernel, grid, kind, arguments, constants, num_warps=WARPS, maxnreg=REGISTERS)


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, eps: float, activation: str
    ) -> Tensor:
        normalised = _Normalised(aligned(x), weight.contiguous(), bias.contiguous(), eps, activation)
        with torch.cuda.device_of(x):
            y, statistics = normalised.forward(None if residual is None else aligned(residual))
        if any(ctx.needs_input_grad[:3]):
            ctx.save_for_backward(normalised.x, statistics, normalised.weight, normalised.bias)
            ctx.kind = eps, activation
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad
        of_residual = gradients[0] if needed[3] else None
        if not any(needed[:3]):
            return None, None, None, of_residual, None, None
        x, statistics, weight, bias = ctx.saved_tensors
        with torch.cuda.device_of(x):
            of_x, sums = _Normalised(x, weight, bias, *ctx.kind).backward(aligned(gradients[0]), statistics)
        return of_x, sums[1].to(weight.dtype), sums[0].to(bias.dtype), of_residual, None, None


def launch_all(dtype: torch.dtype, device: torch.device, activation: str = "none") -> None:
    """Launch what normalisation needs with an activation, or with none and a residual, once each."""
    x = torch.empty((1, VECTOR, 4, 4), dtype=dtype, device=device).to(memory_format=torch.channels_last)
    weight, statistics = (torch.empty(shape, device=device) for shape in (VECTOR, (2, VECTOR)))
    normalised = _Normalised(x, weight, weight, 1e-5, activation)
    normalised.forward(None)
    normalised.backward(x, statistics)
    if activation == "none":
        normalised.forward(x)


@cache
def _compile(dtype: torch.dtype, device: torch.device, activation: str) -> None:
    with torch.cuda.device(device), compiling():
        launch_all(dtype, device, activation)


def batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, activation: str = "none", residual: Tensor | None = None
) -> Tensor:
    """Return `[N, C, H, W]` normalised by its own means and biased variances, then activated or added to `residual`.

    `weight` and `bias` are `[C]`. The activation is `none`, `swish`, `relu`, `relu6` or `hswish`; with a `residual`, of
    the shape and data type of `x`, it is `none`. The output has that data type and channels-last layout, in which `x`
    and `residual` are read; from another one they are copied. It can be differentiated once.
    """
    if x.is_cuda and activation != "none":
        _compile(x.dtype, x.device, activation)
    y: Tensor = _BatchNorm.apply(x, weight, bias, residual, float(eps), activation)
    return y
