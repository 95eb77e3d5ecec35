"""New modules without the time that PyTorch takes to draw all of their weights: 2 ms for a megabyte."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DRAWING = (nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_)
"""The functions that initialise weights of PyTorch's modules, each with an argument `tensor`."""
_DRAWN = 4096
"""Of a matrix so many numbers are drawn at least, in whole rows."""


class _Drawing(TorchFunctionMode):
    """Calls `draw` in place of a function that draws the numbers of a tensor."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func not in _DRAWING:
            return func(*args, **given)
        tensor = given.pop("tensor")
        self.draw(tensor, lambda part: func(tensor=part, **given))
        return tensor

    def draw(self, tensor: Tensor, drawn: Callable[[Tensor], object]) -> None:
        """Give a tensor its numbers; `drawn` gives a tensor those that it would have."""
        raise NotImplementedError


class NothingDrawn(_Drawing):
    """Leaves new weights as memory holds them: drawing what is then copied over takes longer than copying it."""

    def draw(self, tensor: Tensor, drawn: Callable[[Tensor], object]) -> None:
        """Do nothing."""


class RowsRepeated(_Drawing):
    """Draws the first rows of each weight and repeats them: for what is only timed, which its numbers don't change."""

    @torch.no_grad()
    def draw(self, tensor: Tensor, drawn: Callable[[Tensor], object]) -> None:
        """Draw as many rows as have 4,096 numbers; those before them are repeated after them."""
        rows = -(-_DRAWN // max(tensor[:1].numel(), 1))
        drawn(tensor[:rows])
        whole = len(tensor) // rows
        if whole:
            tensor[: whole * rows].view(whole, rows, *tensor.shape[1:])[1:] = tensor[:rows]
            tensor[whole * rows :] = tensor[: len(tensor) - whole * rows]
