"""What is saved where a process keeps freed memory (`nn.network.keep_freed_memory`), and what memory that takes.

    python -m tests.benchmarks.bench_memory [--side 96] [--threads 2] [--rounds 5]

Processes with and without it take turns; each prints what a forward pass and a training step of EfficientNet-Lite0 take
in process time by image, at least, and the most memory that it had.
"""

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from time import process_time

import torch

from nasdeploy.core.randomness import generator
from nasdeploy.core.settings import parse
from nasdeploy.importers import IMPORTERS
from nasdeploy.importers.start import settings_of
from nasdeploy.initial_recipe.pretrained import original_alone
from nasdeploy.nn.network import keep_freed_memory
from nasdeploy.spaces.grown import GrownSettings
from nasdeploy.supernet.evaluate import laid_out_for_device
from nasdeploy.supernet.supernet import Supernet, extract
from nasdeploy.tasks.classification import Classification
from nasdeploy.tasks.image_data import distillation_loss, label_loss
from nasdeploy.tasks.task import Objective
from nasdeploy.training.sandwich import SandwichStep
from nasdeploy.training.step_settings import DistillationSettings

MODEL = "tf_efficientnet_lite0"
_FORWARD, _STEP = 256, 64


def least(call: Callable[[], object], rounds: int) -> float:
    """Return the least processor time of a call in milliseconds, after one that does not count."""
    found = []
    for _ in range(rounds + 1):
        began = process_time()
        call()
        found.append((process_time() - began) * 1e3)
    return min(found[1:])


def measured(side: int, rounds: int) -> tuple[float, float, float]:
    """Return the times by image of a forward pass and of a step, and the peak of memory in MiB."""
    imported = IMPORTERS["timm"].read(IMPORTERS["timm"].model(MODEL), MODEL)
    settings = settings_of(imported, MODEL).model_copy(update={"resolution": (side,)})
    supernet = Supernet(parse(GrownSettings, settings.model_dump(), MODEL).build(10))
    network = laid_out_for_device(extract(supernet, supernet.space.largest())).eval()
    images = torch.randn(_FORWARD, 3, side, side).to(memory_format=torch.channels_last)
    with torch.no_grad():
        forward = least(partial(network.run, network.plan.only.name, images), rounds)
    label = partial(label_loss, smoothing=0.0)
    objective = Objective(label, distillation_loss(DistillationSettings()))
    step = SandwichStep(supernet.to(memory_format=torch.channels_last), Classification(), objective, {})
    sandwich, labels = original_alone(supernet.space, generator(0)), torch.zeros(_STEP, dtype=torch.long)
    training = least(lambda: step(sandwich, (images[:_STEP],), labels), rounds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return forward / _FORWARD, training / _STEP, peak


def main() -> None:
    """Compare the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", choices=("kept", "given-back"), help="measure in this process")
    given = parser.parse_args()
    if given.one is not None:
        torch.set_num_threads(given.threads)
        if given.one == "kept":
            keep_freed_memory()
        print("{:.2f} {:.2f} {:.0f}".format(*measured(given.side, given.rounds)))
        return
    print("                   forward   step, ms of process time an image   peak, MiB")
    for way in ("given-back", "kept") * 2:
        command = [sys.executable, "-m", "tests.benchmarks.bench_memory", "--one", way]
        more = [text for name in ("side", "threads", "rounds") for text in (f"--{name}", str(getattr(given, name)))]
        answer = subprocess.run([*command, *more], check=True, capture_output=True, text=True).stdout
        forward, training, peak = answer.split()
        print(f"memory {way:10} {forward:>8} {training:>6} {peak:>40}", flush=True)


if __name__ == "__main__":
    main()
