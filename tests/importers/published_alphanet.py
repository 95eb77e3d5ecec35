"""AlphaNet's supernet from its description alone: a file as it was published, and what a sub-network computes.

Only functions of torch are used here, and nothing of nasdeploy: an independent opinion. The supernet is the one of the
paper's Table 7, whose widths, depths, kernels and expansions are given for each of the seven stages.
"""

import sys
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]
STEM, HEAD, FEATURES, CLASSES = 24, 6 * 224, 1984, 1000
WIDTHS = (24, 32, 40, 72, 128, 216, 224)
DEPTHS = (2, 5, 6, 6, 8, 8, 2)
EXPANDS = (1, 6, 6, 6, 6, 6, 6)
STRIDES = (1, 2, 2, 2, 1, 2, 1)
SQUEEZED = (False, False, True, False, True, True, True)

# Resolution; widths of stem, stages and head; depths; kernels; expansions.
NETWORKS: dict[str, tuple[int, list[int], list[int], list[int], list[int]]] = {
    "a0": (192, [16, 16, 24, 32, 64, 112, 192, 216, 1792], [1, 3, 3, 3, 3, 3, 1], [3] * 7, [1, 4, 4, 4, 4, 6, 6]),
    "a1": (
        *(224, [16, 16, 24, 32, 64, 112, 192, 216, 1984], [1, 3, 3, 3, 3, 3, 1]),
        *([3, 3, 3, 5, 3, 5, 3], [1, 4, 4, 4, 4, 6, 6]),
    ),
    "a2": (
        *(224, [16, 16, 24, 32, 64, 112, 200, 224, 1984], [1, 3, 3, 3, 3, 4, 1]),
        *([3, 3, 3, 3, 3, 5, 3], [1, 4, 5, 4, 4, 6, 6]),
    ),
    "a3": (
        *(224, [16, 16, 24, 32, 64, 112, 208, 224, 1984], [2, 3, 3, 4, 3, 5, 1]),
        *([3, 3, 3, 5, 3, 3, 3], [1, 4, 4, 4, 4, 6, 6]),
    ),
    "a4": (
        *(256, [16, 16, 24, 32, 64, 112, 192, 216, 1984], [1, 3, 3, 4, 3, 5, 1]),
        *([3, 3, 3, 5, 3, 5, 3], [1, 4, 4, 5, 4, 6, 6]),
    ),
    "a5-small": (
        *(256, [16, 16, 24, 32, 64, 112, 208, 216, 1984], [1, 3, 3, 4, 4, 5, 1]),
        *([3, 3, 3, 3, 3, 5, 3], [1, 4, 4, 5, 4, 6, 6]),
    ),
    "a5-base": (
        *(288, [16, 16, 24, 32, 64, 112, 200, 216, 1984], [2, 3, 4, 3, 3, 5, 1]),
        *([3, 3, 5, 5, 3, 3, 3], [1, 4, 4, 4, 5, 6, 6]),
    ),
    "a6": (
        *(288, [16, 16, 24, 32, 64, 112, 216, 224, 1984], [1, 3, 3, 4, 4, 6, 1]),
        *([3, 3, 3, 3, 3, 5, 3], [1, 4, 6, 5, 4, 6, 6]),
    ),
}


def multiple_of_8(value: int) -> int:
    rounded = max(8, (value + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * value else rounded


# -- a file


def state_dict(classes: int = CLASSES, seed: int = 0) -> dict[str, Tensor]:
    """Random weights, biases and statistics by their published names, without the prefix of several GPUs."""
    made = _Made(seed)
    made.convolution("first_conv.conv.conv", STEM, 3, 3)
    made.norm("first_conv.bn.bn", STEM)
    block, width = 0, STEM
    for out, depth, expand, squeezed in zip(WIDTHS, DEPTHS, EXPANDS, SQUEEZED, strict=True):
        for _ in range(depth):
            made.block(f"blocks.{block}", width, out, multiple_of_8(width * expand), squeezed)
            block, width = block + 1, out
    made.convolution("last_conv.final_expand_layer.conv.conv", HEAD, width, 1)
    made.norm("last_conv.final_expand_layer.bn.bn", HEAD)
    made.convolution("last_conv.feature_mix_layer.conv.conv", FEATURES, HEAD, 1)
    made.tensors["classifier.linear.linear.weight"] = made.normal(classes, FEATURES) * FEATURES**-0.5
    made.tensors["classifier.linear.linear.bias"] = 0.1 * made.normal(classes)
    return made.tensors


class _Made:
    def __init__(self, seed: int) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._random = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._random)

    def convolution(self, name: str, out: int, inside: int, kernel: int, groups: bool = False) -> None:
        taps = kernel**2 * (1 if groups else inside)
        self.tensors[f"{name}.weight"] = self.normal(out, 1 if groups else inside, kernel, kernel) * taps**-0.5

    def norm(self, name: str, channels: int) -> None:
        self.tensors[f"{name}.weight"] = 1 + 0.2 * self.normal(channels)
        self.tensors[f"{name}.bias"] = 0.2 * self.normal(channels)
        self.tensors[f"{name}.running_mean"] = 0.1 * self.normal(channels)
        self.tensors[f"{name}.running_var"] = 0.8 + 0.4 * torch.rand(channels, generator=self._random)
        self.tensors[f"{name}.num_batches_tracked"] = torch.tensor(7)
        self.tensors[f"{name}_tracking.running_mean"] = torch.full((channels,), torch.nan)

    def block(self, name: str, inside: int, out: int, mid: int, squeezed: bool) -> None:
        conv = f"{name}.mobile_inverted_conv"
        if mid != inside:
            self.convolution(f"{conv}.inverted_bottleneck.conv.conv", mid, inside, 1)
            self.norm(f"{conv}.inverted_bottleneck.bn.bn", mid)
        self.convolution(f"{conv}.depth_conv.conv.conv", mid, mid, 5, groups=True)
        self.norm(f"{conv}.depth_conv.bn.bn", mid)
        if squeezed:
            hidden = multiple_of_8(mid // 4)
            for part, rows, columns in (("reduce", hidden, mid), ("expand", mid, hidden)):
                self.convolution(f"{conv}.depth_conv.se.fc.{part}", rows, columns, 1)
                self.tensors[f"{conv}.depth_conv.se.fc.{part}.bias"] = self.normal(rows)
        self.convolution(f"{conv}.point_linear.conv.conv", out, mid, 1)
        self.norm(f"{conv}.point_linear.bn.bn", out)
        self.convolution(f"{name}.shortcut.conv.conv", out, inside, 1)


def write_file(path: Path, tensors: State, legacy: bool = True) -> Path:
    """Write a training's checkpoint in the old format, with settings of classes that are not there when it is read."""
    wrapped = OrderedDict((f"module.{name}", tensor) for name, tensor in tensors.items())
    momentum = {0: {"momentum_buffer": torch.zeros(24, 3, 3, 3)}}
    with _code_of_a_training() as code:
        content = {
            "epoch": 359,
            "args": code.settings(),
            "state_dict": wrapped,
            "optimizer": {"state": momentum, "param_groups": [{"lr": 0.1, "params": list(range(469))}]},
            "lr_scheduler": {"clip": 1e-4, "base_lrs": [0.1], "last_epoch": 359},
        }
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


class _code_of_a_training:  # noqa: N801
    """A module that is there only while something is pickled, with a class of dictionaries and one of objects."""

    def __enter__(self) -> "_code_of_a_training":
        self._module = ModuleType("training_of_another_time")
        source = "class Options(dict):\n    pass\nclass Model:\n    pass\n"
        exec(source, self._module.__dict__)
        sys.modules[self._module.__name__] = self._module
        return self

    def settings(self) -> Any:
        model = self._module.Model()
        model.arch, model.sizes = "attentive_nas", [192, 224, 256, 288]
        options = self._module.Options(seed=0, model=model, nested=self._module.Options(batch_size=32))
        options.machine = {"rank": 0}
        return options

    def __exit__(self, *_: object) -> None:
        del sys.modules[self._module.__name__]


# -- what a sub-network computes


def forward(tensors: State, network: str, images: Tensor) -> Tensor:
    """Return the logits of a sub-network in evaluation, for images of its resolution."""
    _, widths, depths, kernels, expands = NETWORKS[network]
    x = F.conv2d(images, tensors["first_conv.conv.conv.weight"][: widths[0]], stride=2, padding=1)
    x = F.silu(norm(tensors, "first_conv.bn.bn", x))
    for stage, (depth, kernel, expand) in enumerate(zip(depths, kernels, expands, strict=True)):
        for number in range(depth):
            name, stride = f"blocks.{sum(DEPTHS[:stage]) + number}", STRIDES[stage] if number == 0 else 1
            mid = multiple_of_8(x.shape[1] * expand)
            branch = block(tensors, f"{name}.mobile_inverted_conv", x, (mid, widths[stage + 1], kernel, stride))
            x = branch + shortcut(tensors, name, x, widths[stage + 1], stride)
    mid = multiple_of_8(6 * x.shape[1])
    x = F.conv2d(x, tensors["last_conv.final_expand_layer.conv.conv.weight"][:mid, : x.shape[1]])
    x = F.silu(norm(tensors, "last_conv.final_expand_layer.bn.bn", x)).mean((2, 3), keepdim=True)
    x = F.silu(F.conv2d(x, tensors["last_conv.feature_mix_layer.conv.conv.weight"][: widths[-1], :mid])).flatten(1)
    weight, bias = (tensors[f"classifier.linear.linear.{part}"] for part in ("weight", "bias"))
    return x @ weight[:, : widths[-1]].T + bias


def block(tensors: State, name: str, x: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    mid, out, kernel, stride = shape
    if f"{name}.inverted_bottleneck.conv.conv.weight" in tensors:
        x = F.conv2d(x, tensors[f"{name}.inverted_bottleneck.conv.conv.weight"][:mid, : x.shape[1]])
        x = F.silu(norm(tensors, f"{name}.inverted_bottleneck.bn.bn", x))
    cut = (5 - kernel) // 2
    taps = tensors[f"{name}.depth_conv.conv.conv.weight"][:mid, :, cut : 5 - cut, cut : 5 - cut]
    x = F.conv2d(x, taps, stride=stride, padding=kernel // 2, groups=mid)
    x = F.silu(norm(tensors, f"{name}.depth_conv.bn.bn", x))
    if f"{name}.depth_conv.se.fc.reduce.weight" in tensors:
        gate, hidden = x.mean((2, 3), keepdim=True), multiple_of_8(mid // 4)
        reduce, expand = (f"{name}.depth_conv.se.fc.{part}" for part in ("reduce", "expand"))
        gate = F.relu(F.conv2d(gate, tensors[f"{reduce}.weight"][:hidden, :mid], tensors[f"{reduce}.bias"][:hidden]))
        gate = F.conv2d(gate, tensors[f"{expand}.weight"][:mid, :hidden], tensors[f"{expand}.bias"][:mid])
        x = x * F.relu6(gate + 3) / 6
    x = F.conv2d(x, tensors[f"{name}.point_linear.conv.conv.weight"][:out, :mid])
    return norm(tensors, f"{name}.point_linear.bn.bn", x)


def shortcut(tensors: State, name: str, x: Tensor, out: int, stride: int) -> Tensor:
    if stride > 1:
        x = F.avg_pool2d(x, stride, padding=x.shape[2] % 2)
    inside = x.shape[1]
    return x if inside == out else F.conv2d(x, tensors[f"{name}.shortcut.conv.conv.weight"][:out, :inside])


def norm(tensors: State, name: str, x: Tensor) -> Tensor:
    """Normalise the leading channels with the statistics that are there."""
    parts = ("running_mean", "running_var", "weight", "bias")
    mean, variance, scale, shift = (tensors[f"{name}.{part}"][: x.shape[1], None, None] for part in parts)
    return (x - mean) / torch.sqrt(variance + 1e-5) * scale + shift
