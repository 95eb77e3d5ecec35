"""What slicing costs: a supernet's forward and backward against the same networks extracted, and extraction itself.

    OMP_NUM_THREADS=1 python tests/benchmarks/bench_supernet.py

Prints ratios of paired, interleaved runs in one process (median over rounds), so that a noisy machine matters little.
"""

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from nasdeploy.core.arch import Arch
from nasdeploy.core.cost_registry import macs, params
from nasdeploy.core.costs import Costs
from nasdeploy.core.space import SearchSpace
from nasdeploy.nn.functional import rescale
from nasdeploy.nn.network import Network
from nasdeploy.spaces import load_space
from nasdeploy.supernet.supernet import Supernet, extract, input_side
from nasdeploy.tasks.classification import Classification
from nasdeploy.tasks.image_data import distillation_loss, label_loss
from nasdeploy.tasks.task import Objective
from nasdeploy.training.sandwich import Sandwich, SandwichStep
from nasdeploy.training.step_settings import DistillationSettings


def seconds(function: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = perf_counter()
    function()
    return perf_counter() - start


def near(space: SearchSpace, target: float) -> Arch:
    """Of 20,000 random architectures the one whose MACs are nearest to `target`."""
    codes = space.sample_codes(20_000, np.random.default_rng(0))
    nearest = np.abs(Costs(space, [macs])(codes)[:, 0] - target).argmin()
    return space.decode(codes[nearest : nearest + 1])[0]


def train_pass(model: Callable[[Tensor], Tensor], images: Tensor) -> None:
    """Forward and backward of one network."""
    model(images).square().mean().backward()


def pass_all(networks: list[Network], images: Tensor) -> None:
    """Forward and backward of extracted networks, one after the other."""
    for network in networks:
        network.zero_grad()
        train_pass(lambda x, n=network: n(rescale(x, input_side(n.plan))), images)  # type: ignore[misc]


def interleaved(
    one: Callable[[], object], other: Callable[[], object], rounds: int
) -> tuple[list[tuple[float, float]], str]:
    """Seconds of both by round, after one of each that does not count; medians and median ratio as text."""
    one(), other()
    times = [(seconds(one), seconds(other)) for _ in range(rounds)]
    return times, (
        f"{median(a for a, _ in times):.3f} s against {median(b for _, b in times):.3f} s, "
        f"ratio {median(a / b for a, b in times):.3f}"
    )


def compare(
    space: SearchSpace, archs: list[Arch], batch: int, side: int, rounds: int, layout: torch.memory_format
) -> None:
    """Print the time of all networks in the supernet relative to the same networks extracted."""
    torch.manual_seed(0)
    supernet = Supernet(space).to(memory_format=layout)
    networks = [extract(supernet, arch).to(memory_format=layout) for arch in archs]
    images = torch.randn(batch, 3, side, side).to(memory_format=layout)

    def shared() -> None:
        supernet.zero_grad()
        for arch in archs:
            train_pass(lambda x, arch=arch: supernet(x, arch), images)  # type: ignore[misc]

    times, figures = interleaved(shared, lambda: pass_all(networks, images), rounds)
    steps = sum(len(space.plan(arch).steps) for arch in archs)
    extra = median(a - b for a, b in times) / steps * 1e6
    print(
        f"{space.name:9} batch {batch:3} at {side:3} {str(layout).removeprefix('torch.'):18} "
        f"supernet against extracted {figures}, {extra:+.0f} us a block"
    )


def report_step(space: SearchSpace, archs: list[Arch], batch: int, side: int, rounds: int) -> None:
    """Print the time of a sandwich step as it is trained, relative to extracted networks in the default layout."""
    torch.manual_seed(0)
    supernet = Supernet(space)
    networks = [extract(supernet, arch) for arch in archs]
    supernet.to(memory_format=torch.channels_last)
    largest, *random, smallest = archs
    objective = Objective(partial(label_loss, smoothing=0.1), distillation_loss(DistillationSettings()))
    step = SandwichStep(supernet, Classification(), objective, {})
    images, labels = torch.randn(batch, 3, side, side), torch.arange(batch)
    placed = images.to(memory_format=torch.channels_last)

    def sandwich() -> None:
        supernet.zero_grad()
        step(Sandwich({"largest": (largest,), "random": tuple(random), "smallest": (smallest,)}), (placed,), labels)

    _, figures = interleaved(sandwich, lambda: pass_all(networks, images), rounds)
    print(f"sandwich step in channels_last against the four extracted in the default layout {figures}")


def report_extraction() -> None:
    """Print the time to extract a6."""
    space = load_space("alphanet")
    supernet = Supernet(space)
    a6 = space.named["a6"]
    network: Network = extract(supernet, a6)
    whole = median(seconds(lambda: extract(supernet, a6)) for _ in range(15))
    clone = median(seconds(lambda: [p.clone() for p in network.parameters()]) for _ in range(15))
    print(f"extraction of a6: {whole * 1e3:.0f} ms (cloning its weights alone: {clone * 1e3:.0f} ms)")


def report_scoring() -> None:
    """Print the rate at which architectures are scored."""
    space = load_space("alphanet")
    costs = Costs(space, [macs, params, lambda slot, block: float(slot.part.runs)])
    codes = space.sample_codes(1_000_000, np.random.default_rng(0))
    took = median(seconds(lambda: costs(codes)) for _ in range(5))
    print(f"scoring MACs, parameters and a latency-like sum: {1 / took:.1f} million architectures a second")


def main() -> None:
    """Run all comparisons."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    report_scoring()
    report_extraction()
    alphanet, digits = load_space("alphanet"), load_space("digits", 10)
    large = [alphanet.largest(), near(alphanet, 470e6), near(alphanet, 918e6), alphanet.smallest()]
    report_step(alphanet, large, 8, 224, rounds)
    rng = np.random.default_rng(1)
    small = [digits.largest(), digits.sample(rng), digits.sample(rng), digits.smallest()]
    for layout in (torch.contiguous_format, torch.channels_last):
        compare(digits, small, 32, 8, rounds * 10, layout)
        compare(alphanet, large, 8, 224, rounds, layout)


if __name__ == "__main__":
    main()
