"""All networks of a supernet at once: the largest one, masked by independent probabilities of each choice's values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import Block
from nasdeploy.core.space import SearchSpace, Slot
from nasdeploy.nn.functional import rescale
from nasdeploy.nn.masked import MASKED, Masks
from nasdeploy.supernet.supernet import Supernet

RESOLUTION = "resolution"
"""The choice that changes the sizes of tensors, which no mask can do."""

Probabilities = Mapping[str, Tensor]
"""By choice the weights `[values]` of its values, which sum to 1."""


@dataclass(frozen=True)
class _RelaxedSlot:
    """The blocks that may stand in a slot at one resolution."""

    name: str
    reads: tuple[str, ...]
    """Choices that it reads, but for the resolution."""
    present: Tensor
    """`[combinations of their values]`: 1 where there is a block."""
    block: Block
    """Any of them."""
    indicators: Masks
    """`[combinations, ...]`."""


class RelaxedSupernet:
    """A supernet at one resolution, as a differentiable function of the probabilities of all other choices.

    With all probability on one value of each choice it computes that sub-network, by the batch's statistics.
    """

    def __init__(self, supernet: Supernet, resolution: int) -> None:
        """Raises `UserError` for a space whose blocks cannot be masked."""
        self._supernet, self._resolution = supernet, resolution
        first = next(supernet.parameters())
        self._slots = [_relaxed(supernet, slot, resolution, first) for slot in supernet.space.slots]

    def __call__(self, images: Tensor, probabilities: Probabilities) -> Tensor:
        """Logits `[N, classes]` of images `[N, 3, S, S]` of any side."""
        x = rescale(images, self._resolution)
        for slot in self._slots:
            x = self._step(slot, x, probabilities)
        return x

    def _step(self, slot: _RelaxedSlot, x: Tensor, probabilities: Probabilities) -> Tensor:
        joint = _joint(slot.reads, probabilities, x)
        present = joint @ slot.present
        # What the masks are, given that there is a block at all.
        given = joint * slot.present / present.clamp(min=_TINY)
        masks = {name: torch.tensordot(given, values, 1) for name, values in slot.indicators.items()}
        weights = self._supernet.weights[slot.name]
        y = MASKED[type(slot.block)].forward(weights, slot.block, masks, x)
        # Without a block its input is passed on.
        return y if bool(slot.present.all()) else present * y + (1 - present) * x


_TINY = 1e-12


def _relaxed(supernet: Supernet, slot: Slot, resolution: int, like: Tensor) -> _RelaxedSlot:
    space = supernet.space
    reads = tuple(name for name in slot.reads if name != RESOLUTION)
    blocks = _blocks(space, slot, reads, resolution)
    there = [block for block in blocks if block is not None]
    if type(there[0]) not in MASKED:
        raise UserError(
            f"strategy differentiable: blocks of space {space.name} cannot be masked ({type(there[0]).__name__}); "
            "use another search.strategy"
        )
    found = MASKED[type(there[0])].indicators(supernet.weights[slot.name], [block or there[0] for block in blocks])
    present = torch.tensor([block is not None for block in blocks]).to(like)
    return _RelaxedSlot(slot.name, reads, present, there[0], {name: values.to(like) for name, values in found.items()})


def _blocks(space: SearchSpace, slot: Slot, reads: Sequence[str], resolution: int) -> list[Block | None]:
    """The slot's block for every combination of the values of `reads`; the last varies fastest."""
    return [
        space.block_at(slot, {RESOLUTION: resolution, **dict(zip(reads, values, strict=True))})
        for values in product(*(space.values_of[name] for name in reads))
    ]


def _joint(reads: Sequence[str], probabilities: Probabilities, like: Tensor) -> Tensor:
    """Probabilities `[combinations]` of the values of several choices together."""
    joint = torch.ones(1, dtype=like.dtype, device=like.device)
    for name in reads:
        joint = (joint[:, None] * probabilities[name].to(like)[None, :]).flatten()
    return joint
