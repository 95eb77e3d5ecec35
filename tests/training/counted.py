"""A sandwich step by one of some processes, counting its reductions; prints them as JSON.

python counted.py [SPACE]        (started by torchrun)
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from nasdeploy.core.randomness import generator
from nasdeploy.core.settings import parse
from nasdeploy.core.space import SearchSpace
from nasdeploy.distributed.ranks import Ranks, joined
from nasdeploy.spaces import load_space
from nasdeploy.spaces.mobilenet import MobileNetTable
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.tasks.classification import Classification
from nasdeploy.tasks.image_data import kl_divergence, label_loss
from nasdeploy.tasks.task import Objective
from nasdeploy.training.sampling import draw
from nasdeploy.training.sandwich import Sandwich, SandwichStep, to_tensor
from tests.training.recipes import CONTENT


@contextmanager
def counting() -> Iterator[list[int]]:
    """The bytes of each reduction that happens meanwhile, whichever function of PyTorch makes it."""
    found: list[int] = []
    names = ("all_reduce", "reduce", "all_gather", "all_gather_into_tensor", "broadcast", "reduce_scatter_tensor")
    originals = {name: getattr(dist, name) for name in names}

    def recording(name: str) -> Callable[..., object]:
        def call(tensor: Tensor, *rest: object, **more: object) -> object:
            found.append(tensor.nbytes)
            return originals[name](tensor, *rest, **more)

        return call

    try:
        for name in names:
            setattr(dist, name, recording(name))
        yield found
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)


def one_step(ranks: Ranks, supernet: Supernet, sandwiches: Sequence[Sandwich], images: Tensor) -> None:
    """Gradients of a step, averaged over the processes after each of the sandwiches."""
    step = SandwichStep(supernet, Classification(), Objective(partial(label_loss, smoothing=0.0), kl_divergence), {})
    for sandwich in sandwiches:
        losses = step(sandwich, (images,), torch.arange(len(images)) % 2)
        ranks.average(supernet.parameters(), to_tensor(losses, False))


def counted(ranks: Ranks, space: SearchSpace, sandwiches: Sequence[Sandwich]) -> dict[str, object]:
    """Bytes of each reduction, and of the gradients in the end."""
    torch.manual_seed(0)
    supernet = Supernet(space)
    with counting() as reduced:
        one_step(ranks, supernet, sandwiches, torch.randn(2, 3, 10, 10))
    gradients = [parameter.grad for parameter in supernet.parameters() if parameter.grad is not None]
    return {"reduced": reduced, "gradients": sum(gradient.nbytes for gradient in gradients)}


def counts_of(ranks: Ranks, space: SearchSpace) -> dict[str, dict[str, object]]:
    """Count in a step with four networks, with the largest alone, and with a reduction after each of the four."""
    four = draw(space, 2, generator(0, "step"))
    steps = {
        "four": [four],
        "one": [Sandwich({"largest": (space.largest(),)})],
        "each": [Sandwich({"largest": (arch,)}) for arch in four.archs],
    }
    return {name: counted(ranks, space, sandwiches) for name, sandwiches in steps.items()}


def main() -> None:
    """Print the counts as JSON."""
    tiny = parse(MobileNetTable, CONTENT["space"], "space").build(10)
    space = load_space(sys.argv[1], 1000) if len(sys.argv) > 1 else tiny
    with joined() as ranks:
        counts = counts_of(ranks, space)
        if ranks.first:
            print(json.dumps(counts))


if __name__ == "__main__":
    main()
