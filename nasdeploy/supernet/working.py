"""The weights that the networks of training steps compute with: all slices of a network at once, and back at once.

Sliced one by one, each weight of each network costs a step some fifteen operations: views, a copy and a cast before the
forward pass, and after the backward pass all of them backwards and an addition. Each takes the host microseconds for
which a GPU stands still. `WorkingWeights` does the same with three multi-tensor operations a network:

1. *Taking* copies all slices of the parameters, which stay in float32, into memory that is kept from step to step, in
   the format that autocast computes in (`torch._foreach_copy_`). What a copy would not change, as a whole weight in
   float32 or the leading entries of a vector, is a view of the parameter instead.
2. *Learning* makes the backward pass from a loss to these tensors, which are leaves: their gradients come as a list.
3. The list is added to the parameters' gradients (`torch._foreach_add_`), which are kept in memory that stays as well.

The views of parameters, of copies and of gradients are made when a slice is met first; there are a few for each weight,
one for each width and kernel, whatever the number of networks. Values are those of slicing one by one, bit for bit.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nasdeploy.core.plan import Step
from nasdeploy.nn import FAMILIES, TensorsOf
from nasdeploy.nn.functional import each_tensor, is_dense, layout_within
from nasdeploy.supernet.supernet import SubNetwork, Supernet

_CAST = (nn.Conv2d, nn.Linear)
"""The layers whose parameters autocast casts: it computes convolutions and matrix products in its own format."""


@dataclass(frozen=True, eq=False)
class Slice:
    """A part of a parameter that blocks of a step compute with."""

    parameter: nn.Parameter
    part: Tensor
    """The view of the parameter's numbers."""
    leaf: Tensor
    """The tensor that is computed with, and that has a gradient if the parameter has one: the part, or a copy."""
    memory: Tensor | None
    """The memory for the parameter's gradient; None for one that does not learn."""
    gradient: Tensor | None
    """The view of that memory at the part's place."""

    @property
    def whole(self) -> bool:
        """Whether the part is all of the parameter."""
        return self.part.numel() == self.parameter.numel()


@dataclass(frozen=True)
class _BlockSlices:
    """What a block computes with, and the slices among it that are to be filled before and may learn."""

    tensors: TensorsOf
    slices: tuple[Slice, ...]


@dataclass(frozen=True)
class LearningNetwork:
    """A sub-network whose tensors were taken from the parameters; it is valid until the next one is taken."""

    network: SubNetwork
    slices: Sequence[Slice]

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """The parameters that it learns by."""
        return list(dict.fromkeys(each.parameter for each in self.slices if each.gradient is not None))

    def learn(self, loss: Tensor) -> None:
        """Make the backward pass of a loss, and add the gradients to those of the parameters."""
        learning = [each for each in self.slices if each.gradient is not None]
        gradients = torch.autograd.grad(loss, [each.leaf for each in learning], allow_unused=True)
        _add((each, gradient) for each, gradient in zip(learning, gradients, strict=True) if gradient is not None)


class WorkingWeights:
    """The tensors that a supernet's networks compute with in training, one network at a time.

    Parameters have to stay where they are, and to go on learning or not. A parameter's gradient is None until a network
    that uses it has learned.
    """

    def __init__(self, supernet: Supernet) -> None:
        self._supernet, self._device = supernet, next(supernet.parameters()).device
        cast = (module for module in supernet.modules() if isinstance(module, _CAST))
        self._cast = {parameter for module in cast for parameter in module.parameters(recurse=False)}
        self._blocks: dict[tuple[object, ...], _BlockSlices] = {}
        self._slices: dict[tuple[object, ...], Slice] = {}
        self._copies: dict[tuple[object, ...], Tensor] = {}
        self._gradients: dict[nn.Parameter, Tensor] = {}

    def take(self, network: SubNetwork) -> LearningNetwork:
        """Return a network with its tensors taken, in the format of autocast if that is on.

        A part that runs several times for a sample is sliced in each run as everywhere else, and learns by its
        parameters: the gradients of its runs then add up in float32.
        """
        low, blocks, slices = _autocast_format(self._device), dict[str, _BlockSlices](), list[Slice]()
        for part in network.plan.parts:
            for step in part:
                if part.runs == 1:
                    blocks[step.name] = self._block(step, low)
                    slices += blocks[step.name].slices
                else:
                    slices += map(self._itself, self._supernet.weights[step.slot].parameters())
        slices = list(dict.fromkeys(slices))
        copied = [each for each in slices if each.leaf is not each.part]
        if copied:
            with torch.no_grad():
                torch._foreach_copy_([each.leaf for each in copied], [each.part for each in copied])
        return LearningNetwork(replace(network, taken={name: each.tensors for name, each in blocks.items()}), slices)

    def _block(self, step: Step, low: torch.dtype | None) -> _BlockSlices:
        """Return the slices of a step's block: made when it is met first, or each time if any tensor is computed."""
        key = (step.name, step.block, low)
        if key in self._blocks:
            return self._blocks[key]
        weights, computed, found = self._supernet.weights[step.slot], False, list[Slice]()
        owners = {parameter.untyped_storage().data_ptr(): parameter for parameter in weights.parameters()}

        def taken(tensor: Tensor) -> Tensor:
            nonlocal computed
            parameter = owners.get(tensor.untyped_storage().data_ptr())
            if parameter is None:
                # A running statistic has no gradient; what is computed has.
                computed = computed or tensor.requires_grad
                return tensor
            before = sum(each.parameter is parameter for each in found)
            found.append(self._slice((step.name, parameter, before), parameter, tensor.detach(), low))
            return found[-1].leaf

        with torch.enable_grad():
            tensors = each_tensor(taken, FAMILIES[type(step.block)].slice(weights, step.block))
        if computed:
            return _BlockSlices(tensors, (*found, *map(self._itself, weights.parameters())))
        return self._blocks.setdefault(key, _BlockSlices(tensors, tuple(found)))

    def _slice(self, use: tuple[object, ...], parameter: nn.Parameter, part: Tensor, low: torch.dtype | None) -> Slice:
        """Return a part of a parameter for one use in one step, made when it is met first."""
        place = part.storage_offset() - parameter.storage_offset()
        dtype = low if low is not None and parameter in self._cast and part.dtype == torch.float32 else part.dtype
        key = (use, part.shape, part.stride(), place, dtype)
        if key not in self._slices:
            leaf = part if dtype == part.dtype and is_dense(part) else self._copy(use, parameter, part, dtype)
            memory = self._memory(parameter)
            gradient = None if memory is None else memory.as_strided(part.shape, part.stride(), place)
            leaf.requires_grad_(parameter.requires_grad)
            self._slices[key] = Slice(parameter, part, leaf, memory, gradient)
        return self._slices[key]

    def _copy(self, use: tuple[object, ...], parameter: nn.Parameter, part: Tensor, dtype: torch.dtype) -> Tensor:
        """Return memory for a copy of a part, the same for all parts of the parameter that are used there."""
        key = (use, dtype)
        if key not in self._copies:
            self._copies[key] = torch.empty(parameter.numel(), dtype=dtype, device=parameter.device)
        strides = torch.empty(part.shape, device="meta").to(memory_format=layout_within(part)).stride()
        return self._copies[key].as_strided(part.shape, strides).detach()

    def _itself(self, parameter: nn.Parameter) -> Slice:
        """Return a parameter of which something is computed, as a slice that is a leaf itself."""
        memory = self._memory(parameter)
        return self._slices.setdefault((parameter,), Slice(parameter, parameter, parameter, memory, memory))

    def _memory(self, parameter: nn.Parameter) -> Tensor | None:
        """Return the memory for a parameter's gradient, if it learns."""
        if parameter.requires_grad and parameter not in self._gradients:
            self._gradients[parameter] = torch.empty_strided(
                parameter.shape, parameter.stride(), dtype=parameter.dtype, device=parameter.device
            )
        return self._gradients.get(parameter)


def _autocast_format(device: torch.device) -> torch.dtype | None:
    """Return what convolutions and matrix products are computed in there now; None without autocast."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


@torch.no_grad()
def _add(found: Iterable[tuple[Slice, Tensor]]) -> None:
    """Add gradients of slices to those of their parameters, which begin as nothing, or at what somebody else left."""
    new, first, sums = list[Tensor](), _Pairs(), defaultdict[int, _Pairs](_Pairs)
    met = Counter[nn.Parameter]()
    for part, gradient in found:
        assert part.memory is not None and part.gradient is not None
        parameter = part.parameter
        is_new = parameter.grad is None
        if parameter.grad is not None and parameter.grad is not part.memory:
            part.memory.copy_(parameter.grad)
        parameter.grad = part.memory
        if is_new and part.whole:
            first.append(part.gradient, gradient)
            continue
        if is_new:
            new.append(part.memory)
        # Several steps may share a parameter: what one operation adds to must not overlap.
        sums[met[parameter]].append(part.gradient, gradient)
        met[parameter] += 1
    if new:
        torch._foreach_zero_(new)
    if first.to:
        torch._foreach_copy_(first.to, first.given)
    for pairs in sums.values():
        torch._foreach_add_(pairs.to, pairs.given)


class _Pairs:
    """Tensors that others are copied or added to."""

    def __init__(self) -> None:
        self.to: list[Tensor] = []
        self.given: list[Tensor] = []

    def append(self, to: Tensor, given: Tensor) -> None:
        self.to.append(to)
        self.given.append(given)
