"""What a depthwise convolution that learns takes: PyTorch's gradients against `nasdeploy.nn.depthwise`'s.

    python -m tests.benchmarks.bench_depthwise [--images 32] [--threads 1] [--rounds 15]

Prints the least processor time of a forward and backward pass of both, taken in turns, and of a training step of a
whole network grown from EfficientNet-Lite0.
"""

import argparse
from collections.abc import Callable
from functools import partial
from time import process_time
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from nasdeploy.blocks.feature_maps import Padding, margins
from nasdeploy.core.settings import parse
from nasdeploy.core.space import SearchSpace
from nasdeploy.importers import IMPORTERS
from nasdeploy.nn.depthwise import is_faster
from nasdeploy.nn.functional import pad_and_convolve
from nasdeploy.spaces.grown import GrownSettings, cuts_of
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.tasks.classification import Classification
from nasdeploy.tasks.image_data import distillation_loss, label_loss
from nasdeploy.tasks.task import Objective
from nasdeploy.training.sandwich import Sandwich, SandwichStep
from nasdeploy.training.step_settings import DistillationSettings

MODEL = "tf_efficientnet_lite0"
LAYERS: tuple[tuple[int, int, int, int], ...] = (
    *((1152, 5, 1, side) for side in (2, 3, 4, 7)),
    *((672, 5, 1, side) for side in (4, 6, 8, 14)),
    *((240, 5, 1, side) for side in (8, 12, 16, 28)),
    *((672, 5, 2, side) for side in (4, 6, 14)),
    *((144, 5, 2, side) for side in (16, 24, 56)),
    *((1152, 3, 1, side) for side in (1, 2, 3)),
    *((672, 3, 2, side) for side in (2, 3, 4)),
    *((960, 7, 1, side) for side in (3, 6, 7)),
)
"""Channels, kernel, stride and side."""


def least(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The least processor time of each way in milliseconds, after one round that does not count."""
    found = dict.fromkeys(ways, float("inf"))
    for number in range(rounds + 1):
        for name, way in ways.items():
            began = process_time()
            way()
            if number:
                found[name] = min(found[name], (process_time() - began) * 1e3)
    return found


def pytorchs(function: Callable[[], object]) -> None:
    """Call a function with all convolutions as PyTorch differentiates them."""
    with patch("nasdeploy.nn.functional.is_faster", lambda *_: False):
        function()


def report_layer(images: int, layer: tuple[int, int, int, int], padding: Padding, rounds: int) -> None:
    """Print both times of a layer, if there are two."""
    channels, kernel, stride, side = layer
    around = margins(side, kernel, stride, padding)
    x = torch.randn(images, channels, side, side).to(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(channels, 1, kernel, kernel, requires_grad=True)
    if not is_faster(x, weight, stride, around, channels):
        return

    def learn() -> None:
        y = pad_and_convolve(x, weight, stride, around, channels)
        torch.autograd.grad(y.square().sum(), (x, weight))

    print(f"{channels:8} {kernel:6} {stride:6} {side:5}  {padding:10}", text(learn, rounds))


def text(function: Callable[[], object], rounds: int) -> str:
    """Both times of something that learns, and their ratio."""
    found = least({"pytorch": partial(pytorchs, function), "own": function}, rounds)
    return f"{found['pytorch']:8.1f} {found['own']:8.1f} {found['own'] / found['pytorch']:6.2f}"


def grown(side: int) -> SearchSpace:
    """The space of EfficientNet-Lite0's cuts at a side."""
    model = IMPORTERS["timm"].model(MODEL, classes=10)
    found = IMPORTERS["timm"].read(model, MODEL)
    cuts = cuts_of(found.stem, found.stages, found.head, [side])
    return parse(GrownSettings, {"kind": "grown", "name": "lite0", **cuts}, MODEL).build(10)


def report_step(images: int, side: int, rounds: int) -> None:
    """Print both times of a step that trains the largest network alone, and of one with three others."""
    space, rng = grown(side), np.random.default_rng(0)
    supernet = Supernet(space).to(memory_format=torch.channels_last)
    objective = Objective(partial(label_loss, smoothing=0.1), distillation_loss(DistillationSettings()))
    step = SandwichStep(supernet, Classification(), objective, {})
    x: Tensor = torch.randn(images, 3, side, side).to(memory_format=torch.channels_last)
    largest, drawn, smallest = space.largest(), (space.sample(rng), space.sample(rng)), space.smallest()
    for name, sandwich in {
        "one": Sandwich({"largest": (largest,)}),
        "four": Sandwich({"largest": (largest,), "random": drawn, "smallest": (smallest,)}),
    }.items():
        learn = partial(step, sandwich, (x,), torch.arange(images) % 10)
        print(f"a step of {name:4} at {side:3} pixels        ", text(learn, rounds), flush=True)


def main() -> None:
    """Print all times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print("channels kernel stride  side  padding     PyTorch     here  ratio")
    paddings: tuple[Padding, ...] = ("symmetric", "same")
    for layer in LAYERS:
        # They differ for even sides and a stride of 2.
        for padding in paddings[: 1 + (layer[2] == 2 and layer[3] % 2 == 0)]:
            report_layer(given.images, layer, padding, given.rounds)
    for side in (64, 96):
        report_step(given.images, side, max(3, given.rounds // 3))


if __name__ == "__main__":
    main()
