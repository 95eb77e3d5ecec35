"""How fast this machine trains a supernet: one step of random images, timed."""

from time import perf_counter

import torch

from nasdeploy.core.cpus import bound_cpus, cpu_quota
from nasdeploy.core.randomness import generator
from nasdeploy.core.space import SearchSpace
from nasdeploy.nn.device import compute_device, set_threads
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.tasks.losses import distillation_loss
from nasdeploy.training.precision import layout_of
from nasdeploy.training.sandwich import SandwichStep, draw
from nasdeploy.training.settings import TrainSettings

_MOST_STEPS = 6
_ENOUGH_S = 10.0


def machine() -> str:
    """The processor that training would run on, in words."""
    if has_gpu():
        return torch.cuda.get_device_name()
    cores, quota = bound_cpus(), cpu_quota()
    limit = "" if quota is None else f" with a quota of {quota:g}"
    return f"{cores} CPU core{'' if cores == 1 else 's'}{limit}"


def has_gpu() -> bool:
    """Whether training would run on a GPU."""
    return compute_device().type == "cuda"


def seconds_per_image(space: SearchSpace, size: int, batch: int) -> float:
    """Time of a sandwich step by its images: the shortest of some steps of `batch` images, after one to warm up."""
    set_threads(None)
    device = compute_device()
    settings = TrainSettings()
    layout = layout_of(settings, device)
    images = torch.randn(batch, 3, size, size, device=device).to(memory_format=layout)
    labels = torch.zeros(batch, dtype=torch.long, device=device)
    supernet = Supernet(space).to(device).to(memory_format=layout)
    step = SandwichStep(supernet, distillation_loss(settings.distillation), settings.label_smoothing, {})
    times: list[float] = []
    while len(times) < _MOST_STEPS and (len(times) < 2 or sum(times) < _ENOUGH_S):
        start = perf_counter()
        # The losses that a step returns are numbers, so that its work on a GPU is done.
        step(draw(space, settings.random_networks, generator(0, "speed", len(times))), images, labels)
        times.append(perf_counter() - start)
    return min(times[1:]) / batch
