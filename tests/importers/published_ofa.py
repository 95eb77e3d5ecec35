"""Once-for-all's supernets from their description alone: files as published, and what a sub-network computes.

Only functions of torch are used here, and nothing of nasdeploy: an independent opinion. Widths are multiples of those
of MobileNet v3; kernels of 5 and 3 are computed from the next larger ones by a matrix of each block.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]
CLASSES = 1000
STRIDES = (2, 2, 2, 1, 2)
SQUEEZED = (False, True, False, True, True)
ACTIVATIONS = (F.relu, F.relu, F.hardswish, F.hardswish, F.hardswish)


def round8(value: float) -> int:
    rounded = max(8, int(value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


@dataclass(frozen=True)
class Widths:
    """The channels of stem, first block, stages and head."""

    stem: int
    first: int
    stages: tuple[int, ...]
    head: int
    mix: int

    @classmethod
    def times(cls, multiplier: float) -> "Widths":
        stem, first, *stages, head, mix = (
            round8(width * multiplier) for width in (16, 16, 24, 40, 80, 112, 160, 960, 1280)
        )
        return cls(stem, first, tuple(stages), head, mix)


@dataclass(frozen=True)
class SubNetwork:
    """A depth of each stage, and a kernel and an expansion of each of the twenty blocks."""

    resolution: int
    depths: tuple[int, ...]
    kernels: tuple[int, ...]
    expands: tuple[int, ...]

    @classmethod
    def drawn(cls, seed: int) -> "SubNetwork":
        random = torch.Generator().manual_seed(seed)

        def choices(values: tuple[int, ...], count: int) -> tuple[int, ...]:
            return tuple(values[i] for i in torch.randint(len(values), (count,), generator=random).tolist())

        (resolution,) = choices((128, 132, 160, 196), 1)
        return cls(resolution, choices((2, 3, 4), 5), choices((3, 5, 7), 20), choices((3, 4, 6), 20))

    @property
    def choices(self) -> dict[str, int | list[int]]:
        """The sub-network as an architecture is written."""
        lists = {"depth": self.depths, "kernel_size": self.kernels, "expand_ratio": self.expands}
        return {"resolution": self.resolution, **{name: list(values) for name, values in lists.items()}}


def arch_of(network: SubNetwork) -> str:
    """The sub-network as the commands take it."""
    return json.dumps(network.choices)


# -- a file


def state_dict(multiplier: float, seed: int = 0) -> dict[str, Tensor]:
    """Random weights, biases, matrices and statistics by the names of today."""
    random, tensors = torch.Generator().manual_seed(seed), dict[str, Tensor]()

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    def convolution(name: str, out: int, inside: int, kernel: int = 1) -> None:
        tensors[f"{name}.weight"] = normal(out, inside, kernel, kernel) * (inside * kernel**2) ** -0.5

    def norm(name: str, channels: int) -> None:
        tensors[f"{name}.weight"] = 1 + 0.2 * normal(channels)
        tensors[f"{name}.bias"] = 0.2 * normal(channels)
        tensors[f"{name}.running_mean"] = 0.1 * normal(channels)
        tensors[f"{name}.running_var"] = 0.8 + 0.4 * torch.rand(channels, generator=random)
        tensors[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def elastic(name: str, inside: int, out: int, squeezed: bool) -> None:
        mid = round8(inside * 6)
        convolution(f"{name}.inverted_bottleneck.conv.conv", mid, inside)
        norm(f"{name}.inverted_bottleneck.bn.bn", mid)
        for small, matrix in ((9, "5to3_matrix"), (25, "7to5_matrix")):
            tensors[f"{name}.depth_conv.conv.{matrix}"] = torch.eye(small) + 0.2 * small**-0.5 * normal(small, small)
        convolution(f"{name}.depth_conv.conv.conv", mid, 1, 7)
        norm(f"{name}.depth_conv.bn.bn", mid)
        if squeezed:
            hidden = round8(mid // 4)
            for part, rows, columns in (("reduce", hidden, mid), ("expand", mid, hidden)):
                convolution(f"{name}.depth_conv.se.fc.{part}", rows, columns)
                tensors[f"{name}.depth_conv.se.fc.{part}.bias"] = normal(rows)
        convolution(f"{name}.point_linear.conv.conv", out, mid)
        norm(f"{name}.point_linear.bn.bn", out)

    widths = Widths.times(multiplier)
    convolution("first_conv.conv", widths.stem, 3, 3)
    norm("first_conv.bn", widths.stem)
    convolution("blocks.0.conv.depth_conv.conv", widths.stem, 1, 3)
    norm("blocks.0.conv.depth_conv.bn", widths.stem)
    convolution("blocks.0.conv.point_linear.conv", widths.first, widths.stem)
    norm("blocks.0.conv.point_linear.bn", widths.first)
    for stage, (before, width) in enumerate(pairwise((widths.first, *widths.stages))):
        for number in range(4):
            name = f"blocks.{4 * stage + number + 1}.conv"
            elastic(name, width if number else before, width, SQUEEZED[stage])
    convolution("final_expand_layer.conv", widths.head, widths.stages[-1])
    norm("final_expand_layer.bn", widths.head)
    convolution("feature_mix_layer.conv", widths.mix, widths.head)
    tensors["classifier.linear.weight"] = normal(CLASSES, widths.mix) * widths.mix**-0.5
    tensors["classifier.linear.bias"] = 0.1 * normal(CLASSES)
    return tensors


def old_names(tensors: State) -> dict[str, Tensor]:
    """The names in the files that were published in 2020."""
    return {
        re.sub(r"^(blocks\.\d+)\.conv\.", r"\1.mobile_inverted_conv.", name): each for name, each in tensors.items()
    }


def static_names(tensors: State) -> dict[str, Tensor]:
    """The names of a network of full size by itself, which has no matrices."""
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith("_matrix")}
    return {name.replace(".conv.conv.weight", ".conv.weight").replace(".bn.bn.", ".bn."): t for name, t in kept.items()}


def write_file(path: Path, tensors: State, legacy: bool = False) -> Path:
    """Write a file as it is published: a dictionary of the state dict alone."""
    torch.save({"state_dict": OrderedDict(tensors)}, path, _use_new_zipfile_serialization=not legacy)
    return path


# -- what a sub-network computes


def forward(tensors: State, network: SubNetwork, images: Tensor) -> Tensor:
    """Return the logits of a sub-network in evaluation, for images of its resolution, by the names of today."""
    x = F.conv2d(images, tensors["first_conv.conv.weight"], stride=2, padding=1)
    x = F.hardswish(norm(tensors, "first_conv.bn", x))
    y = F.conv2d(x, tensors["blocks.0.conv.depth_conv.conv.weight"], padding=1, groups=x.shape[1])
    y = F.relu(norm(tensors, "blocks.0.conv.depth_conv.bn", y))
    x = x + norm(
        tensors, "blocks.0.conv.point_linear.bn", F.conv2d(y, tensors["blocks.0.conv.point_linear.conv.weight"])
    )
    for stage, depth in enumerate(network.depths):
        for number in range(depth):
            place = 4 * stage + number
            y = block(
                *(tensors, f"blocks.{place + 1}.conv", x, network.kernels[place], network.expands[place]),
                *(STRIDES[stage] if number == 0 else 1, ACTIVATIONS[stage]),
            )
            x = x + y if number else y
    x = F.conv2d(x, tensors["final_expand_layer.conv.weight"])
    x = F.hardswish(norm(tensors, "final_expand_layer.bn", x)).mean((2, 3), keepdim=True)
    x = F.hardswish(F.conv2d(x, tensors["feature_mix_layer.conv.weight"])).flatten(1)
    return x @ tensors["classifier.linear.weight"].T + tensors["classifier.linear.bias"]


def block(
    tensors: State, name: str, x: Tensor, kernel: int, expand: int, stride: int, activation: Callable[[Tensor], Tensor]
) -> Tensor:
    inside = x.shape[1]
    mid = round8(round(inside * expand))
    x = F.conv2d(x, tensors[f"{name}.inverted_bottleneck.conv.conv.weight"][:mid])
    x = activation(norm(tensors, f"{name}.inverted_bottleneck.bn.bn", x))
    x = F.conv2d(x, taps(tensors, name, mid, kernel), stride=stride, padding=kernel // 2, groups=mid)
    x = activation(norm(tensors, f"{name}.depth_conv.bn.bn", x))
    if f"{name}.depth_conv.se.fc.reduce.weight" in tensors:
        gate, hidden = x.mean((2, 3), keepdim=True), round8(mid // 4)
        reduce, restore = (f"{name}.depth_conv.se.fc.{part}" for part in ("reduce", "expand"))
        gate = F.relu(F.conv2d(gate, tensors[f"{reduce}.weight"][:hidden, :mid], tensors[f"{reduce}.bias"][:hidden]))
        gate = F.conv2d(gate, tensors[f"{restore}.weight"][:mid, :hidden], tensors[f"{restore}.bias"][:mid])
        x = x * F.relu6(gate + 3) / 6
    x = F.conv2d(x, tensors[f"{name}.point_linear.conv.conv.weight"][:, :mid])
    return norm(tensors, f"{name}.point_linear.bn.bn", x)


def taps(tensors: State, name: str, channels: int, kernel: int) -> Tensor:
    """The depthwise kernel, from 7 to 5 to 3."""
    found = tensors[f"{name}.depth_conv.conv.conv.weight"][:channels]
    for smaller, matrix in ((5, "7to5_matrix"), (3, "5to3_matrix")):
        if kernel <= smaller:
            centre = found[:, 0, 1:-1, 1:-1].reshape(channels, smaller**2)
            new = torch.einsum("ij,cj->ci", tensors[f"{name}.depth_conv.conv.{matrix}"], centre)
            found = new.reshape(channels, 1, smaller, smaller)
    return found


def norm(tensors: State, name: str, x: Tensor) -> Tensor:
    """Normalise the leading channels with the statistics that are there."""
    parts = ("running_mean", "running_var", "weight", "bias")
    mean, variance, scale, shift = (tensors[f"{name}.{part}"][: x.shape[1], None, None] for part in parts)
    return (x - mean) / torch.sqrt(variance + 1e-5) * scale + shift
