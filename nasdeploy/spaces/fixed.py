"""A space of one architecture of another space: what a network is as a space of its own, so that it trains like any."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from nasdeploy.core.arch import Arch, Choice
from nasdeploy.core.plan import Block, TensorType
from nasdeploy.core.space import SearchSpace, Sharing, Slot


class FixedSpace(SearchSpace):
    """The space whose only architecture is one of another space, with the same plan and the same digest.

    Its slots are those that the architecture has. They share nothing with other blocks, so that a supernet of it holds
    the weights of that network, and no more.
    """

    def __init__(self, space: SearchSpace, arch: Arch) -> None:
        self.name = f"{space.name}-{arch.digest}"
        self.choices = tuple(Choice(choice.name, (arch[choice.name],)) for choice in space.choices)
        self.is_chain = space.is_chain
        self._space = space
        present = [slot for slot in space.slots if space.block_at(slot, arch) is not None]
        self.slots = tuple(replace(slot, sharing=Sharing()) for slot in present)

    def block(self, slot: Slot, values: Mapping[str, int]) -> Block | None:
        """Return the block that the other space has there."""
        return self._space.block(slot, values)

    def inputs(self, part: str, arch: Arch) -> tuple[tuple[str, TensorType], ...]:
        """Return what a part takes in the other space."""
        return self._space.inputs(part, arch)

    def takes(self, slot: Slot, values: Mapping[str, int], made: Sequence[str]) -> tuple[str, ...]:
        """Return what the block in `slot` takes in the other space."""
        return self._space.takes(slot, values, made)

    def outputs(self, part: str, made: Sequence[str]) -> tuple[str, ...]:
        """Return what a part gives out in the other space."""
        return self._space.outputs(part, made)
