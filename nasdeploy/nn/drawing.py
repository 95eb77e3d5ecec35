"""New modules without the time that PyTorch takes to draw all of their weights: 2 ms for a megabyte."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_DRAWING = (nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_)
"""The functions that initialise weights of PyTorch's modules, each with an argument `tensor`."""
_DRAWN = 4096
"""So many numbers of a matrix are drawn at least, in whole rows."""
_Draw = Callable[[Tensor, Callable[[Tensor], object]], None]
"""Gives a tensor its numbers; the function beside it gives a tensor those that it would have."""


def nothing_drawn() -> TorchFunctionMode:
    """Leave new weights as memory holds them: drawing what is then copied over takes longer than copying it."""
    return _Drawing(lambda tensor, drawn: None)


def rows_repeated() -> TorchFunctionMode:
    """Draw the first rows of new weights and repeat them: for what is only timed, which its numbers do not change."""
    return _Drawing(_repeat_rows)


class _Drawing(TorchFunctionMode):
    """Calls `draw` in place of a function that draws the numbers of a tensor."""

    def __init__(self, draw: _Draw) -> None:
        super().__init__()
        self._draw = draw

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func not in _DRAWING:
            return func(*args, **given)
        tensor = given.pop("tensor")
        self._draw(tensor, lambda part: func(tensor=part, **given))
        return tensor


@torch.no_grad()
def _repeat_rows(tensor: Tensor, drawn: Callable[[Tensor], object]) -> None:
    rows = -(-_DRAWN // max(tensor[:1].numel(), 1))
    drawn(tensor[:rows])
    whole = len(tensor) // rows
    if whole:
        tensor[: whole * rows].view(whole, rows, *tensor.shape[1:])[1:] = tensor[:rows]
        tensor[whole * rows :] = tensor[: len(tensor) - whole * rows]
