"""Networks that BestUp chooses in one of some processes; each writes what it saw to OUT/RANK.json.

python choosing.py OUT        (started by torchrun)
"""

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nasdeploy.core.arch import Arch
from nasdeploy.distributed.ranks import joined
from nasdeploy.tasks.classification import Classification
from nasdeploy.tasks.image_data import label_loss
from nasdeploy.tasks.task import Objective
from nasdeploy.training.sampling import SamplerContext, sampler_from
from nasdeploy.training.sandwich import SandwichStep
from nasdeploy.training.settings import TrainSettings
from tests.nn.reference import randomise
from tests.small_spaces import two_stages

STEPS = 5
SAMPLING = {"kind": "best-up", "bin_macs_m": 0.02, "prior_samples": 1000}


def training_step() -> SandwichStep:
    """The same on all processes."""
    from nasdeploy.supernet.supernet import Supernet

    torch.manual_seed(0)
    supernet = Supernet(two_stages())
    randomise(supernet)
    return SandwichStep(supernet, Classification(), Objective(partial(label_loss, smoothing=0.1)), {})


def batch(rank: int) -> tuple[Tensor, Tensor]:
    """A process's part of the batch."""
    draws = torch.Generator().manual_seed(rank)
    return torch.randn(6, 3, 9, 9, generator=draws), torch.randint(3, (6,), generator=draws)


def main() -> None:
    """Draw the networks of some steps."""
    settings = TrainSettings.model_validate({"sampling": SAMPLING})
    sampler, step, found = sampler_from(SamplerContext(two_stages(), settings, 0)), training_step(), []
    with joined() as ranks:
        images, labels = batch(ranks.rank)

        def losses(archs: Sequence[Arch]) -> Sequence[float]:
            given = step.losses_of(archs, (images,), labels)
            found.append({"archs": [arch.to_json() for arch in archs], "losses": given})
            return given

        for number in range(STEPS):
            chosen = sampler.draw(np.random.default_rng(number), 0, losses).networks["random"]
            found[-1]["chosen"] = [arch.to_json() for arch in chosen]
        Path(sys.argv[1], f"{ranks.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
