"""The small spaces of the tests: two to add up by hand, three to train and export, one of 10^20 architectures."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nasdeploy.core.arch import Arch, Choice
from nasdeploy.core.plan import Block, TensorType
from nasdeploy.core.space import Codes, PartSpec, SearchSpace, Slot
from nasdeploy.spaces.grown import GrownSettings
from nasdeploy.spaces.mobilenet import MobileNetTable
from nasdeploy.spaces.ofa import OfaTable


@dataclass(frozen=True)
class Square(Block):
    """A dense layer `[inside] -> [outside]` of a made-up kind."""

    inside: int
    outside: int
    kind: int
    doubled: bool = False

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        return (TensorType((self.inside,)),)

    @property
    def output(self) -> TensorType:
        return TensorType((self.outside,))

    @property
    def macs(self) -> int:
        return self.inside * self.outside * self.kind * (1 + self.doubled)

    @property
    def params(self) -> int:
        return self.inside * self.outside + self.kind


class ToySpace(SearchSpace):
    """Two stages of width `width.0` and `width.1`; the second has up to three layers of `kind.1`, or none at all.

    The third layer is a part of its own, which runs three times; so are those after it, which run once.
    `twist` is read by the third layer only, `skip` decides about the last one: at 1 it is absent.
    """

    name = "toy"
    choices = (
        Choice("width.0", (2, 3)),
        Choice("width.1", (4, 5, 7)),
        Choice("depth", (1, 2, 3)),
        Choice("kind.0", (1, 2)),
        Choice("kind.1", (1, 2, 5)),
        Choice("twist", (0, 1)),
        Choice("skip", (0, 1)),
    )
    slots = (
        Slot("first", ("width.0", "kind.0")),
        Slot("second", ("width.0", "width.1", "kind.1")),
        Slot("third", ("kind.1", "depth", "width.1"), PartSpec("loop", runs=3)),
        Slot("fourth", ("width.1", "depth", "twist", "kind.1"), PartSpec("end")),
        Slot("last", ("skip", "width.1"), PartSpec("end")),
    )

    def block(self, slot: Slot, values: Mapping[str, int]) -> Block | None:
        if slot.name == "first":
            return Square(8, values["width.0"], values["kind.0"])
        if slot.name == "second":
            return Square(values["width.0"], values["width.1"], values["kind.1"])
        if slot.name == "last":
            return None if values["skip"] else Square(values["width.1"], values["width.1"], 1)
        if values["depth"] < {"third": 2, "fourth": 3}[slot.name]:
            return None
        return Square(values["width.1"], values["width.1"], values["kind.1"], bool(values.get("twist")))

    def inputs(self, part: str, arch: Arch) -> tuple[tuple[str, TensorType], ...]:
        return (("input", TensorType((8 if part == "network" else arch["width.1"],))),)


TWO_STAGES = MobileNetTable.model_validate_json(
    """{"name": "tiny", "resolution": [6, 9], "activation": "swish", "stem": {"width": [8, 12]},
    "stages": [
        {"width": [8, 16], "depth": [1, 2], "kernel": [3, 5], "expand": [1, 2], "stride": 1},
        {"width": [12, 16], "depth": [1, 2], "kernel": [3, 5], "expand": [2, 3], "stride": 2, "se": true}],
    "head": {"width": [16, 24], "expand": 2}}"""
)


def two_stages(classes: int = 3) -> SearchSpace:
    return TWO_STAGES.build(classes)


ONE_STAGE = MobileNetTable.model_validate_json(
    """{"name": "tiny", "resolution": [8, 12], "activation": "swish", "stem": {"width": [8]},
    "stages": [{"width": [8, 16], "depth": [1, 2], "kernel": [3], "expand": [2], "stride": 2, "se": true}],
    "head": {"width": [16], "expand": 2},
    "named": {"t0": {"resolution": 12, "width": [8, 16, 16], "depth": [2], "kernel_size": [3], "expand_ratio": [2]}}}"""
)


def one_stage(classes: int = 3) -> SearchSpace:
    return ONE_STAGE.build(classes)


_BLOCK = {"kind": "inverted-residual", "out_channels": 8, "kernel_size": 3, "stride": 1, "activation": "relu6"}
GROWN_CONTENT: dict[str, Any] = {
    "kind": "grown",
    "name": "small-grown",
    "resolution": [9, 12],
    "stem": {"kind": "stem", "out_channels": 8, "kernel_size": 3, "stride": 2, "activation": "relu6"},
    "stages": [
        {"blocks": [_BLOCK | {"mid_channels": 8, "se_channels": 0, "padding": "same"}]},
        {
            "blocks": [
                _BLOCK | {"mid_channels": 32, "se_channels": 0, "stride": 2, "kernel_size": 5, "padding": "same"},
                _BLOCK | {"mid_channels": 48, "se_channels": 4, "kernel_size": 5, "repeat": 2},
            ],
            "depth": [1, 2, 3],
            "kernel_size": [3, 5],
            "middle": [50, 100],
        },
        {"blocks": [_BLOCK | {"mid_channels": 24, "se_channels": 0, "repeat": 2}], "depth": [1, 2]},
    ],
    "head": {"kind": "classifier", "classes": 1000, "activation": "relu6", "conv_channels": 16},
}
"""A network with a stage that cannot be cut, one that can in every way, and one in depth alone."""
GROWN = GrownSettings.model_validate_json(json.dumps(GROWN_CONTENT))


def grown(classes: int = 3) -> SearchSpace:
    return GROWN.build(classes)


OFA_CONTENT: dict[str, Any] = {
    "kind": "ofa",
    "name": "small-ofa",
    "resolution": [9, 12],
    "activation": "hswish",
    "stem": {"width": 8, "stride": 1},
    "first": {"width": 8, "activation": "relu"},
    "stages": [
        {"width": 16, "depth": [1, 2], "kernel": [3, 5, 7], "expand": [2, 3, 6], "stride": 2, "se": True},
        {"width": 24, "depth": [1], "kernel": [3], "expand": [3, 4, 6], "activation": "relu"},
    ],
    "head": {"conv_channels": 32, "hidden_channels": 24},
}
"""A once-for-all space of 540 networks: a stage with every choice, and one of a block without a choice of kernel."""
OFA = OfaTable.model_validate_json(json.dumps(OFA_CONTENT))


def ofa(classes: int = 3) -> SearchSpace:
    return OFA.build(classes)


def every_code(space: SearchSpace) -> Codes:
    """All combinations of values, once."""
    sizes = [len(choice.values) for choice in space.choices]
    return np.ascontiguousarray(np.indices(sizes, dtype=np.int16).reshape(len(sizes), -1).T)


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
