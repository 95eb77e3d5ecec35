"""Five steps of training by one of some processes, which writes its weights to a file.

python ranked.py OUT.pt [COUNTS.json]        (started by torchrun, or alone with twice the batch)

With a second file, two processes also count their reductions, and tell the same numbers from different ones.
"""

import json
import sys
from functools import partial
from pathlib import Path

import torch

from nasdeploy.core.randomness import generator
from nasdeploy.core.settings import parse
from nasdeploy.distributed.ranks import Ranks, joined
from nasdeploy.nn.functional import BATCH, SYNCHRONISED
from nasdeploy.spaces.mobilenet import MobileNetTable
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.tasks.classification import Classification
from nasdeploy.tasks.image_data import kl_divergence, label_loss
from nasdeploy.tasks.task import Objective
from nasdeploy.training.optimizer import make_optimizer
from nasdeploy.training.sampling import draw
from nasdeploy.training.sandwich import SandwichStep, StepComputation, to_tensor
from nasdeploy.training.settings import TrainSettings
from tests.nn.reference import randomise
from tests.training.counted import counts_of
from tests.training.recipes import CONTENT

BATCH_SIZE, STEPS = 16, 5


def kl_in_float64(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """KL without the conversion to float32."""
    log_q, log_p = torch.log_softmax(student, 1), torch.log_softmax(teacher, 1)
    return torch.nn.functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


EXACT = Objective(torch.nn.functional.cross_entropy, kl_in_float64)
"""Losses in float64."""
PLAIN = Objective(partial(label_loss, smoothing=0.0), kl_divergence)


def train(ranks: Ranks, exact: bool) -> Supernet:
    """The supernet after five steps."""
    space = parse(MobileNetTable, CONTENT["space"], "space").build(10)
    torch.manual_seed(0)
    supernet = Supernet(space)
    # A fresh supernet's zeros would leave most gradients zero.
    randomise(supernet, 0)
    supernet.to(torch.float64 if exact else torch.float32)
    optimizer = make_optimizer(supernet, TrainSettings())
    draws = torch.Generator().manual_seed(1)
    images = torch.randn(STEPS, BATCH_SIZE, 3, 10, 10, generator=draws, dtype=torch.float64)
    labels = torch.randint(10, (STEPS, BATCH_SIZE), generator=draws)
    objective = EXACT if exact else PLAIN
    execution = StepComputation(SYNCHRONISED if ranks.world > 1 else BATCH)
    step = SandwichStep(supernet, Classification(), objective, {}, execution=execution)
    for number in range(STEPS):
        optimizer.zero_grad()
        mine = slice(ranks.rank, None, ranks.world)
        part = images[number, mine].to(next(supernet.parameters()).dtype)
        losses = step(draw(space, 2, generator(0, "step", number)), (part,), labels[number, mine])
        ranks.average(supernet.parameters(), to_tensor(losses, False))
        optimizer.step()
    return supernet


def trained(ranks: Ranks) -> dict[bool, dict[str, torch.Tensor]]:
    """The weights after training in float64 (True) and in float32 (False)."""
    return {exact: train(ranks, exact).state_dict() for exact in (True, False)}


def main() -> None:
    """Train in both precisions; then, if asked to, count, and compare the same numbers and different ones."""
    weights_file, *counts_file = map(Path, sys.argv[1:])
    with joined() as ranks:
        weights = trained(ranks)
        if ranks.first:
            torch.save(weights, weights_file)
        if counts_file:
            counts = counts_of(ranks, parse(MobileNetTable, CONTENT["space"], "space").build(10))
            same = [ranks.same(7), ranks.same(-3), ranks.same(ranks.rank), ranks.same(7 - 2 * ranks.rank)]
            if ranks.first:
                counts_file[0].write_text(json.dumps({**counts, "same": same}))


if __name__ == "__main__":
    main()
