"""What a sandwich step takes on a GPU, and how much of it the GPU works.

    python -m tests.benchmarks.bench_gpu [--cases alphanet-128 alphanet-32 cifar10-512] [--modes eager networks]

Steps are a recipe's, on random images: the largest network, two random ones and the smallest, forward and backward,
clipping and the optimizer. `fixed` steps have the same networks each time, of `drawn` ones each has other random
networks, and all of them come twice. Printed are the first steps, of four networks whose shapes no one has met, the
median of 20 steps, the time in which the GPU worked on some of them, by the profiler, and the peak of memory.

Modes: `eager` starts every operation; `networks` replays those that come in every step as CUDA graphs.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from time import perf_counter

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from nasdeploy.nn import kernels
from nasdeploy.recipe import load_recipe
from nasdeploy.spaces import load_settings
from nasdeploy.spaces.mobilenet import drop_rates
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.tasks.classification import Classification
from nasdeploy.tasks.image_data import distillation_loss, label_loss
from nasdeploy.tasks.task import Objective
from nasdeploy.training.checkpoint import TrainingState
from nasdeploy.training.graphs import Graphs, cuda_capture
from nasdeploy.training.optimizer import clip_gradients, gradient_scaler, layout_of, mixed_precision, set_tf32
from nasdeploy.training.sampling import draw
from nasdeploy.training.sandwich import Sandwich, SandwichStep, StepComputation

CASES = {
    "alphanet-128": ("alphanet-imagenet", "alphanet", "bf16", False, 128, 224),
    "alphanet-32": ("alphanet-imagenet", "alphanet", "bf16", False, 32, 224),
    "alphanet-tf32-32": ("alphanet-imagenet", "alphanet", "none", True, 32, 224),
    "cifar10-512": ("alphanet-cifar10", "cifar10", "none", False, 512, 32),
    "cifar10-tf32-512": ("alphanet-cifar10", "cifar10", "none", True, 512, 32),
    "cifar10-bf16-512": ("alphanet-cifar10", "cifar10", "bf16", False, 512, 32),
}
"""The recipe, the space, the format of autocast, TF32, the images of a step and their side, by name."""
MODES = ("eager", "networks")
DEVICE = torch.device("cuda")


class Training:
    """Steps of a case."""

    def __init__(self, case: str, mode: str) -> None:
        recipe, space, autocast, tf32, batch, side = CASES[case]
        self.settings = load_recipe(recipe).train.model_copy(
            update={"autocast": autocast, "tf32": tf32, "batch_size": batch}
        )
        set_tf32(self.settings)
        torch.manual_seed(0)
        self.space = load_settings(space).build(1000 if side == 224 else 10)
        layout = layout_of(self.settings, DEVICE)
        supernet = Supernet(self.space).to(DEVICE).to(memory_format=layout)
        self.state = TrainingState.fresh(supernet, self.settings)
        self.images = torch.randn(batch, 3, side, side, device=DEVICE).to(memory_format=layout)
        self.labels = torch.arange(batch, device=DEVICE) % 10
        self.scaler = gradient_scaler(self.settings, DEVICE)
        self.step = self._made(mode)
        self.rng = np.random.default_rng(0)
        self.fixed = self.drawn()

    def _made(self, mode: str) -> SandwichStep:
        settings, supernet = self.settings, self.state.supernet
        objective = Objective(
            partial(label_loss, smoothing=settings.label_smoothing), distillation_loss(settings.distillation)
        )
        graphs = Graphs(tuple(supernet.parameters()), cuda_capture(DEVICE), print) if mode == "networks" else None
        execution = StepComputation(
            precision=lambda: mixed_precision(settings, DEVICE), scale=self.scaler.scale, graphs=graphs
        )
        rates = drop_rates(self.space, settings.dropout, settings.drop_connect)
        return SandwichStep(supernet, Classification(), objective, rates, execution=execution)

    def drawn(self) -> Sandwich:
        """The networks of a step."""
        return draw(self.space, self.settings.random_networks, self.rng)

    def __call__(self, sandwich: Sandwich) -> None:
        """Do a step."""
        state = self.state
        torch.manual_seed(1)
        state.optimizer.zero_grad(set_to_none=True)
        losses = self.step(sandwich, (self.images,), self.labels)
        self.scaler.unscale_(state.optimizer)
        clip_gradients(state.supernet.parameters(), self.settings)
        self.scaler.step(state.optimizer)
        assert losses.by_role
        self.losses = losses


def seconds(function: Callable[[], object]) -> float:
    """The time that a function and what it left to the GPU take."""
    torch.cuda.synchronize()
    began = perf_counter()
    function()
    torch.cuda.synchronize()
    return perf_counter() - began


def worked(functions: Sequence[Callable[[], object]]) -> tuple[float, float, dict[str, float]]:
    """The time of some calls, the part of it in which the GPU worked, and its seconds by name of what it did."""
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        took = seconds(lambda: [function() for function in functions])
    by_name: dict[str, float] = {}
    for event in profiled.events():
        found = getattr(event, "device_time_total", 0.0) / 1e6
        if found and "cuda" in str(event.device_type).lower():
            by_name[event.name] = by_name.get(event.name, 0.0) + found
    return took, sum(by_name.values()), by_name


def report(case: str, mode: str, drawn: int, top: int) -> None:
    """Print the figures of a case in a mode."""
    training = Training(case, mode)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    firsts = [seconds(partial(training, training.fixed)) for _ in range(6)]
    steps = [seconds(partial(training, training.fixed)) for _ in range(20)]
    calls = 5
    took, busy, by_name = worked([partial(training, training.fixed)] * calls)
    print(
        f"{case:17} {mode:9} fixed: first steps {' '.join(f'{each:.2f}' for each in firsts)} s, then "
        f"{1e3 * median(steps):.1f} ms, GPU worked {1e3 * busy / calls:.1f} of {1e3 * took / calls:.1f} ms, "
        f"peak {torch.cuda.max_memory_reserved() / 2**30:.1f} GiB, losses {training.losses.by_role}",
        flush=True,
    )
    for name, spent in sorted(by_name.items(), key=lambda item: -item[1])[:top]:
        print(f"      {1e3 * spent / calls:8.2f} ms  {name[:110]}")
    if drawn:
        sandwiches = [training.drawn() for _ in range(drawn)]
        new = [seconds(partial(training, each)) for each in sandwiches]
        known = [seconds(partial(training, each)) for each in sandwiches]
        took, busy, _ = worked([partial(training, each) for each in sandwiches[:calls]])
        print(
            f"{case:17} {mode:9} drawn: {drawn} with new shapes {1e3 * median(new):.0f} ms (median), the same again "
            f"{1e3 * median(known):.1f} ms, GPU worked {1e3 * busy / calls:.1f} of {1e3 * took / calls:.1f} ms, "
            f"peak {torch.cuda.max_memory_reserved() / 2**30:.1f} GiB",
            flush=True,
        )


def main() -> None:
    """Print the figures of all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["alphanet-128", "alphanet-32", "cifar10-512"])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["eager", "networks"])
    parser.add_argument("--drawn", type=int, default=0, help="steps with other random networks")
    parser.add_argument("--top", type=int, default=0, help="what the GPU worked at longest")
    parser.add_argument("--fewest", type=int, default=kernels.FEWEST, help="numbers from which on kernels are used")
    given = parser.parse_args()
    kernels.FEWEST = given.fewest
    print(torch.__version__, torch.cuda.get_device_name(), f"cuDNN {torch.backends.cudnn.version()}")
    for case in given.cases:
        for mode in given.modes:
            report(case, mode, given.drawn, given.top)
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
