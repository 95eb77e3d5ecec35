"""Time and memory that a training run takes, foretold from its own first steps."""

import resource
from time import perf_counter

import torch

from nasdeploy.core.progress import Progress, duration

_STEPS = 20
_ENOUGH_S = 60.0
"""Or fewer steps, where they take long."""


def peak_memory(device: torch.device) -> int:
    """Most bytes that this process has held at a time: on the GPU if it trains there, else in main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Forecast:
    """Says once how long the steps that are left will take, by the first ones, and how much memory they need.

    The very first step is left out: it also allocates, chooses algorithms and starts the processes that read images.
    """

    def __init__(self, left: int, device: torch.device, progress: Progress) -> None:
        self._left, self._device, self._progress = left, device, progress
        self._done, self._began = 0, 0.0

    def step(self) -> None:
        """Count a finished step."""
        self._done += 1
        if self._done == 1:
            self._began = perf_counter()
        elif self._began and (self._done > _STEPS or perf_counter() - self._began > _ENOUGH_S):
            self._say(perf_counter() - self._began)
            self._began = 0.0

    def _say(self, took: float) -> None:
        each, left = took / (self._done - 1), self._left - self._done
        memory = peak_memory(self._device) / 2**30
        self._progress.say(
            f"train: {duration(each)} a step, about {duration(each * left)} for the {left} steps that are left; "
            f"{memory:.2g} GiB of memory"
        )
