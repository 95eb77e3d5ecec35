"""Depthwise convolutions whose weights get their gradients fast on CPUs with AVX2.

oneDNN, by which PyTorch computes there, has no gradient of a depthwise weight for kernels of more than three columns,
nor for images smaller than what a kernel covers. It takes one that is made for any groups instead: in place of a
convolution's own time it takes 4 to 80 times that. Here the same sums are made otherwise; the output and the gradient
of the image stay PyTorch's. Milliseconds of the gradient of the weight, for 32 images in channels-last layout, on one
thread of an AMD EPYC:

    channels  kernel  stride  side   PyTorch   here  summed
        1152       5       1     3        36    3.7  by offsets
        1152       5       1     2        26    0.9  by offsets
         672       5       2     4        45    2.3  by offsets
        1152       3       1     2        15    0.9  by offsets
         672       5       1     6        14    4.8  by pairs
         240       5       1    12        12    5.4  by pairs
         144       5       2    24        12    5.7  by pairs
         120       5       1    28        32     16  by pairs
         144       5       2    56        46     38  by pairs, which is not done
         144       5       2    59        48    103  by pairs, which is not done: they need a column more
         672       3       1     8       2.6     12  by offsets, which is not done

Where all images together have fewer than 1,024 channels, calling functions takes longer than is saved.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_FEWEST = 1024
_PAIRED, _WIDEST = 5, 32
"""The kernel whose gradient is summed by pairs of columns, and the largest side of its images."""


def is_faster(x: Tensor, weight: Tensor, stride: int, margins: tuple[int, int], groups: int) -> bool:
    """Return whether a convolution is a depthwise one that learns, and does so faster with `depthwise`.

    It does not where it is traced, compiled or computed in another format, or where images are not in channels-last
    layout.
    """
    learns = torch.is_grad_enabled() and weight.requires_grad
    if not learns or torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return False
    images, channels, _, side = x.shape
    kernel = weight.shape[-1]
    return (
        groups == channels == len(weight)
        and images * channels >= _FEWEST
        and (_overhangs(kernel, side, stride, margins) or _pairs(kernel, side, stride, margins))
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and x.is_contiguous(memory_format=torch.channels_last)
        and torch.backends.cpu.get_cpu_capability() == "AVX2"
    )


def _overhangs(kernel: int, side: int, stride: int, margins: tuple[int, int]) -> bool:
    """Return whether a kernel at the image's edge reaches over the opposite one."""
    before, after = margins
    return before == after and side < kernel + -before % stride


def _pairs(kernel: int, side: int, stride: int, margins: tuple[int, int]) -> bool:
    before, after = margins
    strides = (1, 2) if before == after == kernel // 2 else (2,) if before != after else ()
    return kernel == _PAIRED and side <= _WIDEST and stride in strides


def depthwise(x: Tensor, weight: Tensor, stride: int, margins: tuple[int, int]) -> Tensor:
    """Return the convolution of `[N, C, side, side]` with `[C, 1, k, k]`, with zeros before and after rows and columns.

    It can be differentiated once: PyTorch refuses to differentiate its gradients.
    """
    before, after = margins
    if before != after:
        # A column more changes nothing where the kernel is odd and the stride is 2; of an even number pairs are made.
        odd = (x.shape[-1] + before + after) % 2
        x, before = F.pad(x, (before, after + odd, before, after)), 0
    y: Tensor = _Depthwise.apply(x, weight, stride, before)
    return y


class _Depthwise(torch.autograd.Function):
    """PyTorch's convolution, but for the gradient of the weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.stride, ctx.padding
        gradient = gradients[0].contiguous(memory_format=torch.channels_last)
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = _gradients(gradient, x, weight, (stride, stride), (padding, padding), of_weight=False)
        if ctx.needs_input_grad[1]:
            margins = (padding, padding)
            overhangs = _overhangs(weight.shape[-1], x.shape[-2], stride, margins)
            sums = _by_offsets if overhangs else _by_pairs
            of_weight = sums(x, gradient, weight.shape[-1], stride, padding)
        return of_x, of_weight, None, None


def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int], *, of_weight: bool
) -> Tensor:
    """Return what PyTorch computes of the weight, or of the image."""
    which = [not of_weight, of_weight, False]
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, stride, padding, (1, 1), False, (0, 0), len(weight), which
    )
    return found[of_weight]


def _columns(gradient: Tensor, x: Tensor, rows: int, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """Return the gradient of a kernel of three columns, `[C, 1, rows, 3]`, for which oneDNN has one."""
    shape = x.new_empty(x.shape[1], 1, rows, 3)
    return _gradients(gradient, x, shape, stride, padding, of_weight=True)


def _by_pairs(x: Tensor, gradient: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """Return the gradient of a kernel of five columns from gradients of kernels of three.

    Two columns side by side are one of twice the channels without a copy. In these pairs, the columns of a kernel that
    lie two apart lie one apart.
    """
    taps = x.new_empty(x.shape[1], 1, kernel, kernel)
    odd = x.shape[-1] % 2
    if stride == 1:
        taps[..., 1:-1] = _columns(gradient, x, kernel, (1, 1), (padding, padding - 1))
        images, gradients = (_in_pairs(F.pad(each, (0, odd)) if odd else each) for each in (x, gradient))
        outer = _columns(gradients, images, kernel, (1, 1), (padding, padding // 2))
        taps[..., ::4] = outer.view(2, *taps.shape[:-1], 3).sum(0)[..., ::2]
        return taps
    images = _in_pairs(F.pad(x, (0, odd)) if odd else x)
    both = _columns(torch.cat([gradient, gradient], 1), images, kernel, (stride, 1), (padding, padding // 2))
    even, uneven = both.view(2, *taps.shape[:-1], 3)
    taps[..., ::2], taps[..., 1::2] = even, uneven[..., :2]
    return taps


def _in_pairs(x: Tensor) -> Tensor:
    """Return `[N, C, H, W]` in channels-last layout as `[N, 2 C, H, W / 2]` in the same layout, and memory."""
    images, channels, height, width = x.shape
    return x.permute(0, 2, 3, 1).reshape(images, height, width // 2, 2 * channels).permute(0, 3, 1, 2)


def _by_offsets(x: Tensor, gradient: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """Return the gradient of each tap, `[C, 1, kernel, kernel]`, from the part of the image that it sees."""
    taps = x.new_zeros(kernel, kernel, x.shape[1])
    seen = [_seen(offset - padding, x.shape[-1], gradient.shape[-1], stride) for offset in range(kernel)]
    for row, (of_x, of_y) in enumerate(seen):
        for column, (of_x2, of_y2) in enumerate(seen):
            taps[row, column] = (x[:, :, of_x, of_x2] * gradient[:, :, of_y, of_y2]).sum((0, 2, 3))
    return taps.permute(2, 0, 1)[:, None].contiguous()


def _seen(offset: int, side: int, outputs: int, stride: int) -> tuple[slice, slice]:
    """Return which places of an image a tap at an offset sees, and from which places of the output."""
    first = max(0, -(offset // stride))
    count = max(0, min(outputs, (side - 1 - offset) // stride + 1) - first)
    start = first * stride + offset
    return slice(start, start + count * stride, stride), slice(first, first + count)
