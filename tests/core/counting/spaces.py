"""Spaces for counting: all codes of a small one, and one of 10^20 architectures whose layers choose on their own."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from nasdeploy.core.arch import Arch, Choice
from nasdeploy.core.plan import Block, TensorType
from nasdeploy.core.space import Codes, SearchSpace, Slot


def every_code(space: SearchSpace) -> Codes:
    """All combinations of values, once."""
    return np.array(list(product(*(range(len(choice.values)) for choice in space.choices))), dtype=np.int16)


@dataclass(frozen=True)
class Layer(Block):
    """A layer of a made-up kind on maps of a side."""

    side: int
    kernel: int
    expand: int

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        return (TensorType((self.side, self.side)),)

    @property
    def output(self) -> TensorType:
        return TensorType((self.side, self.side))

    @property
    def macs(self) -> int:
        return self.side**2 * self.expand * (self.kernel**2 + 41)

    @property
    def params(self) -> int:
        return self.expand * (self.kernel**2 + 41)


class LayerwiseSpace(SearchSpace):
    """As once-for-all networks: 5 stages of 2 to 4 layers, kernel size and expansion of each, and the resolution."""

    name = "layerwise"

    def __init__(self, stages: int = 5) -> None:
        layers = [f"{stage}.{layer}" for stage in range(stages) for layer in range(4)]
        self.choices = (
            Choice("resolution", (128, 160, 176, 192, 208, 224)),
            *(Choice(f"depth.{stage}", (2, 3, 4)) for stage in range(stages)),
            *(Choice(f"kernel_size.{layer}", (3, 5, 7)) for layer in layers),
            *(Choice(f"expand_ratio.{layer}", (3, 4, 6)) for layer in layers),
        )
        self.slots = tuple(
            Slot(layer, ("resolution", f"depth.{layer[0]}", f"kernel_size.{layer}", f"expand_ratio.{layer}"))
            for layer in layers
        )

    def block(self, slot: Slot, values: Mapping[str, int]) -> Block | None:
        stage, layer = map(int, slot.name.split("."))
        if layer >= values[f"depth.{stage}"]:
            return None
        side = values["resolution"] // 2 ** (stage + 1)
        return Layer(side, values[f"kernel_size.{slot.name}"], values[f"expand_ratio.{slot.name}"] * 2**stage)

    def inputs(self, part: str, arch: Arch) -> tuple[tuple[str, TensorType], ...]:
        return (("input", TensorType((arch["resolution"], arch["resolution"]))),)
