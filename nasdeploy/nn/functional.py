"""Functions that block families are made of, on explicit tensors, and what a computation is told beside them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from nasdeploy.core.space import Sharing
from nasdeploy.nn import kernels
from nasdeploy.nn.depthwise import depthwise, is_faster


@dataclass(frozen=True)
class Statistics:
    """The choice of statistics that batch normalisation uses."""

    batch: bool
    """Whether those of the batch are used, else the running ones."""
    momentum: float = 0.0
    """How far the running ones move towards the batch's, from 0 to 1."""
    synchronised: bool = False
    """Whether the batch is that of all processes together."""
    biased: bool = False
    """Whether the running variance moves towards the batch's own, not to what it tells of the variance of all."""


BATCH = Statistics(batch=True)
"""Training: normalise by the batch; running statistics are neither used nor changed."""
SYNCHRONISED = Statistics(batch=True, synchronised=True)
"""Training on several processes: normalise by the batches of all of them."""
RUNNING = Statistics(batch=False)
"""Inference: normalise by running statistics."""


@dataclass(frozen=True)
class Context:
    """What a block's computation is told beside its tensors and inputs."""

    statistics: Statistics
    """What batch normalisation normalises by; nothing to blocks without it."""
    drop: float = 0.0
    """The probability with which the block drops what it can: its branch beside a shortcut, or its features."""


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "swish": F.silu,
    "relu": F.relu,
    "relu6": F.relu6,
    "hswish": F.hardswish,
}
BN_EPS = 1e-5


class NormTensors(NamedTuple):
    """Scale, shift, running mean and running variance, `[channels]` each."""

    weight: Tensor
    bias: Tensor
    mean: Tensor
    var: Tensor


class ConvTensors(NamedTuple):
    """A convolution without bias and its normalisation."""

    weight: Tensor
    norm: NormTensors


class Middle(NamedTuple):
    """Channels that a block makes and uses up itself: in any order it computes the same, up to the order of sums."""

    tensors: tuple[tuple[Tensor, int], ...]
    """Every tensor that has an entry for each of the channels, and the dimension where."""
    projection: Tensor
    """The weight `[out, channels, ...]` that sums over them; what it is applied to is what they hold."""
    scale: Tensor | None = None
    """The scale of the last normalisation before it, if there is one."""
    width: int = 1
    """The number of neighbours that stay together, as the channels of a convolution's group do."""
    channels_of: Callable[[Any], int] = attrgetter("mid_channels")
    """The function that gives the number of the channels which a block takes: the leading ones."""

    def order(self, groups: Tensor) -> Tensor:
        """Return the order of channels in which their groups of neighbours stand in the given one."""
        return (groups[:, None] * self.width + torch.arange(self.width, device=groups.device)).flatten()


def norm_entries(norm: nn.BatchNorm2d) -> tuple[tuple[Tensor, int], ...]:
    """Return what a normalisation holds for each channel, as `Middle.tensors`."""
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None and var is not None
    return ((norm.weight, 0), (norm.bias, 0), (mean, 0), (var, 0))


def slice_norm(norm: nn.BatchNorm2d, channels: int) -> NormTensors:
    """Return the leading `channels` of a normalisation."""
    weight, bias, mean, var = norm.weight, norm.bias, norm.running_mean, norm.running_var
    assert mean is not None and var is not None
    if channels == norm.num_features:
        return NormTensors(weight, bias, mean, var)
    return NormTensors(weight[:channels], bias[:channels], mean[:channels], var[:channels])


def batch_norm(
    x: Tensor,
    norm: NormTensors,
    statistics: Statistics,
    eps: float = BN_EPS,
    activation: str = "none",
    shortcut: Tensor | None = None,
) -> Tensor:
    """Return `[N, channels, H, W]` normalised over the batch or by running statistics.

    `eps` is added to variances. An `activation` follows, by its key in `ACTIVATIONS`, or `none`; after it the
    `shortcut` is added, if there is one.
    """
    addable = shortcut is None or (activation == "none" and shortcut.dtype == x.dtype)
    if statistics == BATCH and addable and kernels.pay(x):
        from nasdeploy.nn.kernels.normalisation import batch_norm as fused

        return fused(x, norm.weight, norm.bias, eps, activation, shortcut)
    y = _normalised(x, norm, statistics, eps)
    y = y if activation == "none" else ACTIVATIONS[activation](y)
    return y if shortcut is None else y + shortcut


def _normalised(x: Tensor, norm: NormTensors, statistics: Statistics, eps: float) -> Tensor:
    if statistics.synchronised:
        return synchronised_batch_norm(x, norm.weight, norm.bias, eps)
    if statistics.batch and not statistics.momentum:
        return F.batch_norm(x, None, None, norm.weight, norm.bias, True, 0.0, eps)
    mean, var = norm.mean, norm.var
    if statistics.biased:
        mean, var = torch.zeros_like(mean), torch.zeros_like(var)
        y = F.batch_norm(x, mean, var, norm.weight, norm.bias, True, 1.0, eps)
        count = x.numel() // x.shape[1]
        norm.mean.lerp_(mean, statistics.momentum)
        norm.var.lerp_(var * ((count - 1) / count), statistics.momentum)
        return y
    return F.batch_norm(x, mean, var, norm.weight, norm.bias, statistics.batch, statistics.momentum, eps)


def pad_and_convolve(x: Tensor, weight: Tensor, stride: int, margins: tuple[int, int], groups: int = 1) -> Tensor:
    """Return the convolution of `[N, C, H, W]` without bias, with zeros before and after the rows and columns."""
    if is_faster(x, weight, stride, margins, groups):
        return depthwise(x, weight, stride, margins)
    if groups > 1 and kernels.serve(x) and groups == x.shape[1] == len(weight):
        from nasdeploy.nn.kernels import depthwise as on_gpu

        if weight.shape[-1] in on_gpu.KERNELS and stride in on_gpu.STRIDES:
            x = x.to(torch.get_autocast_dtype("cuda")) if torch.is_autocast_enabled("cuda") else x
            return on_gpu.depthwise(x, weight.to(x.dtype), stride, margins)
    before, after = margins
    if before != after:
        x, before = F.pad(x, (before, after, before, after)), 0
    return F.conv2d(x, weight, None, stride, before, 1, groups)


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


class BatchNormFamily:
    """What families of blocks with batch normalisation have in common."""

    calibrated = True
    rules: tuple[type[Sharing], ...] = (Sharing,)

    @staticmethod
    def middles(weights: Any) -> tuple[Middle, ...]:
        """Return nothing: no channels of these blocks can be sorted."""
        return ()

    @staticmethod
    def randomise(weights: nn.Module, draw: torch.Generator) -> None:
        """Draw scales, shifts and running statistics; fresh ones have scales of zero, which a runtime may fold away."""
        for norm in weights.modules():
            if isinstance(norm, nn.BatchNorm2d):
                assert norm.running_mean is not None and norm.running_var is not None
                nn.init.uniform_(norm.weight, 0.5, 1.5, generator=draw)
                nn.init.normal_(norm.bias, 0.0, 0.1, generator=draw)
                norm.running_mean.normal_(0.0, 0.1, generator=draw)
                norm.running_var.uniform_(0.5, 1.5, generator=draw)


def slice_matrix(weight: Tensor, rows: int, columns: int) -> Tensor:
    """Return the leading output and input channels of a weight `[out, in, ...]`.

    A view, or the weight itself if whole.
    """
    if weight.shape[0] == rows and weight.shape[1] == columns:
        return weight
    return weight[:rows, :columns]


def centre_crop(weight: Tensor, channels: int, kernel_size: int) -> Tensor:
    """Return the leading channels and the central taps of a weight `[channels, in, k, k]`.

    A view, or the weight itself if whole.
    """
    if weight.shape[0] != channels:
        weight = weight[:channels]
    margin = (weight.shape[-1] - kernel_size) // 2
    if margin:
        weight = weight[:, :, margin : margin + kernel_size, margin : margin + kernel_size]
    return weight


def is_dense(tensor: Tensor) -> bool:
    """Return whether a tensor's numbers lie side by side, in either layout, and not scattered in a larger tensor."""
    return tensor.is_contiguous() or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last))


def layout_within(view: Tensor) -> torch.memory_format:
    """Return the layout of the weight that a view is of: a convolution may sum in another order in another one.

    Strides tell it where a kernel of one tap is in both: so does PyTorch where the image has one pixel.
    """
    tells = view.ndim == 4 and view.stride(1) == 1 and (view.shape[3] > 1 or view.stride(3) != 1)
    return torch.channels_last if tells else torch.contiguous_format


def dense(tensor: Tensor) -> Tensor:
    """Return a tensor, or if it is scattered in a larger one a copy that is not, in the same layout."""
    return tensor if is_dense(tensor) else tensor.contiguous(memory_format=layout_within(tensor))


def each_tensor(change: Callable[[Tensor], Tensor], tensors: Any) -> Any:
    """Return a block's tensors, nested tuples of any kind, changed one by one; None stays."""
    if tensors is None or isinstance(tensors, Tensor):
        return None if tensors is None else change(tensors)
    changed = (each_tensor(change, each) for each in tensors)
    return type(tensors)(*changed) if hasattr(tensors, "_fields") else tuple(changed)


def tensors_in(nested: Any) -> Iterator[Tensor]:
    """Yield the tensors of nested tuples, in order; None is left out."""
    if isinstance(nested, Tensor):
        yield nested
    elif nested is not None:
        for each in nested:
            yield from tensors_in(each)


def drop_connect(x: Tensor, rate: float) -> Tensor:
    """Zero whole samples of `[N, ...]` with probability `rate`; the others are scaled by 1 / (1 - rate)."""
    if rate == 0.0:
        return x
    keep = torch.empty((x.shape[0], 1, 1, 1), dtype=x.dtype, device=x.device).bernoulli_(1.0 - rate)
    return x * (keep / (1.0 - rate))


def project(
    x: Tensor, conv: ConvTensors, shortcut: Tensor | None, context: Context, eps: float, activation: str = "none"
) -> Tensor:
    """Return the end of a block: its middle channels `[N, C, H, W]` summed up and normalised, and the shortcut added.

    Beside a shortcut, whole samples are dropped as the context says.
    """
    x = F.conv2d(x, conv.weight)
    if shortcut is None or not context.drop:
        return batch_norm(x, conv.norm, context.statistics, eps, activation, shortcut)
    x = batch_norm(x, conv.norm, context.statistics, eps, activation)
    return drop_connect(x, context.drop) + shortcut


def rescale(x: Tensor, side: int) -> Tensor:
    """Return images `[N, 3, S, S]` at `side` (AlphaNet, appendix B), the same where S is `side`.

    Bicubic, corners not aligned, no antialiasing.
    """
    if x.shape[-1] == side and x.shape[-2] == side:
        return x
    return F.interpolate(x, size=(side, side), mode="bicubic", align_corners=False)
