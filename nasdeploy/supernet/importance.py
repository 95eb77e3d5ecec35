"""The order of the channels inside blocks: narrower blocks take the leading ones, so the most important come first.

Every narrower network of a supernet that was sorted inherits the channels that matter; the largest one computes what it
did. Sorting by the L1 norm of what reads a channel is once-for-all's (Cai et al. 2020, section 3.3).
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nasdeploy.core.errors import lookup
from nasdeploy.core.plan import Block
from nasdeploy.nn import FAMILIES
from nasdeploy.nn.functional import Middle
from nasdeploy.nn.network import Network, PartRunner
from nasdeploy.supernet.evaluate import calibrate
from nasdeploy.supernet.supernet import Supernet, extract


@dataclass
class _Moments:
    """Sums over samples and positions of what each channel holds."""

    count: int = 0
    magnitude: Tensor | float = 0.0
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def add(self, x: Tensor, channels_at: int) -> None:
        """Add activations whose channels are at one of the dimensions."""
        flat = x.movedim(channels_at, 0).flatten(1)
        self.count += flat.shape[1]
        self.magnitude = self.magnitude + flat.abs().sum(1, dtype=torch.float64)
        self.total = self.total + flat.sum(1, dtype=torch.float64)
        self.squares = self.squares + flat.square().sum(1, dtype=torch.float64)

    @property
    def mean_magnitude(self) -> Tensor:
        """The mean absolute activation of each channel."""
        return torch.as_tensor(self.magnitude) / self.count

    @property
    def deviation(self) -> Tensor:
        """The standard deviation of each channel's activations."""
        mean = torch.as_tensor(self.total) / self.count
        return (torch.as_tensor(self.squares) / self.count - mean.square()).clamp(min=0).sqrt()


@dataclass(frozen=True)
class Criterion:
    """A way to tell how much each channel matters."""

    score: Callable[[Middle, _Moments], Tensor | None]
    """The importance of each channel, `[channels]`; None leaves them as they are."""
    needs_batches: bool = False
    """Whether the activations on batches are looked at, else the weights alone."""


def _projection(middle: Middle, moments: _Moments) -> Tensor:
    return middle.projection.transpose(0, 1).flatten(1).abs().sum(1)


def _activation(middle: Middle, moments: _Moments) -> Tensor:
    return _projection(middle, moments) * moments.mean_magnitude


def _variation(middle: Middle, moments: _Moments) -> Tensor:
    return middle.projection.transpose(0, 1).flatten(1).square().sum(1).sqrt() * moments.deviation


def _bn_scale(middle: Middle, moments: _Moments) -> Tensor | None:
    return None if middle.scale is None else middle.scale.abs()


CRITERIA: dict[str, Criterion] = {
    "projection": Criterion(_projection),
    "activation": Criterion(_activation, needs_batches=True),
    "variation": Criterion(_variation, needs_batches=True),
    "bn-scale": Criterion(_bn_scale),
}
"""The criteria by name.

`projection` is the L1 norm of the weights that read a channel. `activation` is that times its mean absolute activation
in the largest network. `variation` is their L2 norm times the standard deviation of its activation: what is lost with
a channel when the next normalisation makes up for its mean. `bn-scale` is the magnitude of its last scale before it is
read (network slimming, Liu et al. 2017); channels without one keep their order.
"""


def sort_channels(
    supernet: Supernet,
    criterion: str,
    batches: Iterable[Any] = (),
    drive: Callable[[PartRunner, Any], object] | None = None,
    trained: Mapping[str, Iterable[Block]] = MappingProxyType({}),
) -> None:
    """Permute the channels inside the blocks of every slot in place, the most important first.

    The largest network computes what it did, up to the order of sums, in training mode and with its running statistics.
    So do those made of blocks that are `trained` already, given by slot: each of these keeps the channels that it has,
    and what is sorted is the channels that a block has beside those of the next narrower one (once-for-all keeps the
    inner channels of a block, but not those in the middle of its squeeze-and-excitation).

    `batches`, taken by `drive` as in `calibrate`, are those on which activations are looked at; criteria of weights
    alone take none. What a caller keeps for each channel beside the supernet (an optimiser's moments, averaged weights)
    is not permuted. Raises `UserError` for an unknown criterion, `ValueError` if it needs batches and there are none.
    """
    found = lookup("criterion of importance", CRITERIA, criterion)
    moments = _moments(supernet, batches, drive) if found.needs_batches else defaultdict(_Moments)
    with torch.no_grad():
        for slot, number, middle in _middles(supernet):
            score = found.score(middle, moments[slot, number])
            if score is not None:
                groups = score.view(-1, middle.width).sum(1)
                kept = {middle.channels_of(block) // middle.width for block in trained.get(slot, ())}
                order = middle.order(_sorted_between(groups, kept))
                for tensor, dimension in middle.tensors:
                    tensor.copy_(tensor.index_select(dimension, order))


def _sorted_between(importance: Tensor, kept: Collection[int]) -> Tensor:
    """Return places by falling importance `[n]`, where the first `k` remain the first for each number `k` kept."""
    ends = sorted({0, len(importance), *kept})
    parts = [importance[first:end].argsort(descending=True, stable=True) + first for first, end in pairwise(ends)]
    return torch.cat(parts)


def _middles(supernet: Supernet) -> Iterator[tuple[str, int, Middle]]:
    """Yield the slots' sets of channels, with their numbers in the slot."""
    for step in supernet.space.plan(supernet.space.largest()):
        if step.slot == step.name:
            found = FAMILIES[type(step.block)].middles(supernet.weights[step.slot])
            yield from ((step.slot, number, middle) for number, middle in enumerate(found))


def _moments(
    supernet: Supernet, batches: Iterable[Any], drive: Callable[[PartRunner, Any], object] | None
) -> dict[tuple[str, int], _Moments]:
    """Return what channels hold in the largest network, by slot and set of channels."""
    network = extract(supernet, supernet.space.largest())
    found, watched = {}, []
    for slot, number, middle in _middles(supernet):
        found[slot, number] = moments = _Moments()
        watched.append((_same_in(network, slot, supernet.weights[slot], middle.projection), moments))
    with _Watching(watched):
        calibrate(network, batches, drive)
    return found


def _same_in(network: Network, slot: str, weights: nn.Module, wanted: Tensor) -> Tensor:
    """Return the parameter of a network that is called as the wanted one of a slot's weights is."""
    name = next(name for name, parameter in weights.named_parameters() if parameter is wanted)
    return network.block(slot).weights.get_parameter(name)


class _Watching(TorchFunctionMode):
    """A look at what some weights are applied to, wherever a family's computation does so."""

    def __init__(self, watched: Iterable[tuple[Tensor, _Moments]]) -> None:
        super().__init__()
        self._moments = {id(weight): moments for weight, moments in watched}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        moments = self._moments.get(id(args[1])) if len(args) > 1 else None
        if moments is not None and func in (F.conv2d, F.linear):
            moments.add(args[0], -1 if func is F.linear else 1)
        return func(*args, **(kwargs or {}))
