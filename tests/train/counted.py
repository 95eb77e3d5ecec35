"""One sandwich step by one of some processes, counting its reductions, as JSON; helps a test and a benchmark.

python counted.py        (started by torchrun)
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from nasdeploy.randomness import generator
from nasdeploy.settings import parse
from nasdeploy.spaces.mobilenet import MobileNetTable, space_from_table
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.train.losses import kl_divergence
from nasdeploy.train.ranks import Ranks, joined
from nasdeploy.train.sandwich import Losses, Sandwich, SandwichStep, draw
from nasdeploy.train.totals import to_tensor
from tests.train.recipes import CONTENT


@contextmanager
def counting() -> Iterator[list[int]]:
    """The bytes of each reduction that happens meanwhile, whichever function of PyTorch makes it."""
    found: list[int] = []
    names = ("all_reduce", "reduce", "all_gather", "all_gather_into_tensor", "broadcast", "reduce_scatter_tensor")
    originals = {name: getattr(dist, name) for name in names}

    def counted(name: str):  # type: ignore[no-untyped-def]
        def call(tensor: torch.Tensor, *rest: object, **more: object) -> object:
            found.append(tensor.numel() * tensor.element_size())
            return originals[name](tensor, *rest, **more)

        return call

    try:
        for name in names:
            setattr(dist, name, counted(name))
        yield found
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)


def one_step(ranks: Ranks, supernet: Supernet, sandwich: Sandwich, images: torch.Tensor) -> Losses:
    """Gradients of a step, averaged over the processes."""
    step = SandwichStep(supernet, kl_divergence, 0.0, {})
    losses = step(sandwich, images, torch.arange(len(images)) % 10)
    ranks.average(supernet.parameters(), to_tensor(losses, False))
    return losses


def main() -> None:
    """Count in a step with four networks, and in one with the largest alone."""
    with joined() as ranks:
        space = space_from_table(parse(MobileNetTable, CONTENT["space"], "space"), 10)
        counts = {}
        for name, sandwich in {
            "four": draw(space, 2, generator(0, "step")),
            "one": Sandwich(space.largest()),
        }.items():
            torch.manual_seed(0)
            supernet = Supernet(space)
            with counting() as reduced:
                one_step(ranks, supernet, sandwich, torch.randn(8, 3, 10, 10))
            gradients = [parameter.grad for parameter in supernet.parameters() if parameter.grad is not None]
            counts[name] = {"reduced": reduced, "gradients": sum(4 * gradient.numel() for gradient in gradients)}
        if ranks.first:
            print(json.dumps(counts))


if __name__ == "__main__":
    main()
