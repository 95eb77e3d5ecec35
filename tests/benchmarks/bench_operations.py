"""How many ATen operations a sandwich step is made of, by role: what the host has to start one after the other.

    python -m tests.benchmarks.bench_operations [--json FILE]

The step is a recipe's: the largest network, two random ones and the smallest, forward and backward, clipping and the
optimizer. Counted is what PyTorch's dispatcher is asked for, views included: for a GPU that waits for the host, a view
is as long as a small kernel. A multi-tensor operation counts as one. Images are few and small, since neither changes
the count, and depthwise weights get their gradients as PyTorch computes them, which `nasdeploy.nn.depthwise` does not
on some CPUs.

`weights` are all operations on parameters, their slices, casts and gradients, and those of the optimizer.
"""

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nasdeploy.core.space import SearchSpace
from nasdeploy.recipe import load_recipe
from nasdeploy.spaces import load_settings
from nasdeploy.spaces.mobilenet import MobileNetTable, drop_rates
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.tasks.classification import Classification
from nasdeploy.tasks.image_data import distillation_loss, label_loss
from nasdeploy.tasks.task import Objective
from nasdeploy.training.checkpoint import TrainingState
from nasdeploy.training.optimizer import clip_gradients, gradient_scaler, mixed_precision
from nasdeploy.training.sampling import draw
from nasdeploy.training.sandwich import Sandwich, SandwichStep, StepComputation
from nasdeploy.training.settings import TrainSettings

ROLES = ("convolution", "normalisation", "activation", "weights", "other")
"""The first holds matrix products as well."""
_NAMES = {
    "convolution": ("convolution", "convolution_backward", "addmm", "mm"),
    "normalisation": ("native_batch_norm", "native_batch_norm_backward"),
    "activation": tuple(
        name + end
        for name in ("silu", "sigmoid", "relu", "hardtanh", "hardswish", "hardsigmoid")
        for end in ("", "_", "_backward")
    ),
}
_OF = {name: role for role, names in _NAMES.items() for name in names}
CASES = {"alphanet": ("alphanet-imagenet", "bf16"), "cifar10": ("alphanet-cifar10", "none")}
"""The recipe and the format of autocast, by space."""
CPU = torch.device("cpu")


class OperationCounter(TorchDispatchMode):
    """Counts operations by role while it is entered, and by role and name."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.optimizing = False
        self.names: Counter[tuple[str, str]] = Counter()
        # Storages that are kept here cannot be taken for others at the same place.
        self._weights: dict[int, Any] = {}
        self._note(weights)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        role = _OF.get(name)
        if self.optimizing:
            role = "weights"
        elif role is None:
            role = "weights" if any(map(self._is_weight, _tensors((args, kwargs)))) else "other"
        if role == "weights":
            # What is written to in place becomes a weight as well.
            self._note(_tensors((found, args if name.endswith("_") else ())))
        elif name in ("convolution_backward", "native_batch_norm_backward"):
            self._note(_tensors(found[1:]))
        self.names[role, name] += 1
        return found

    @property
    def counts(self) -> dict[str, int]:
        """The number of operations by role, and of all."""
        by_role = {role: sum(count for (of, _), count in self.names.items() if of == role) for role in ROLES}
        return {**by_role, "all": sum(by_role.values())}

    def _note(self, tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._weights[storage._cdata] = storage

    def _is_weight(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._weights


def _tensors(nested: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(nested) if isinstance(leaf, Tensor)]


def small(name: str) -> SearchSpace:
    """The space; that of photographs with resolutions that a CPU computes in a moment."""
    settings = load_settings(name)
    if isinstance(settings, MobileNetTable) and max(settings.resolution) > 64:
        settings = settings.model_copy(update={"resolution": (48, 56, 64, 72), "named": {}})
    return settings.build(10)


def one_step(state: TrainingState, step: SandwichStep, sandwich: Sandwich, settings: TrainSettings) -> OperationCounter:
    """Do a step as `nasdeploy.training.loop` does, on random images."""
    side = max(arch["resolution"] for arch in sandwich.archs)
    images, labels = torch.randn(2, 3, side, side).to(memory_format=torch.channels_last), torch.tensor([0, 1])
    counter = OperationCounter(_tensors(state.supernet.state_dict(keep_vars=True)))
    state.optimizer.zero_grad(set_to_none=True)
    with counter:
        step(sandwich, (images,), labels)
        counter.optimizing = True
        state.scaler.unscale_(state.optimizer)
        clip_gradients(state.supernet.parameters(), settings)
        state.scaler.step(state.optimizer)
    return counter


def count(name: str) -> OperationCounter:
    """Count the operations of the second step of a recipe; the first makes the state of the optimizer."""
    recipe, autocast = CASES[name]
    settings = load_recipe(recipe).train.model_copy(update={"autocast": autocast})
    torch.manual_seed(0)
    space = small(name)
    supernet = Supernet(space).to(memory_format=torch.channels_last)
    state = TrainingState.fresh(supernet, settings)
    task, scaler = Classification(), gradient_scaler(settings, CPU)
    objective = Objective(
        partial(label_loss, smoothing=settings.label_smoothing), distillation_loss(settings.distillation)
    )
    execution = StepComputation(precision=lambda: mixed_precision(settings, CPU), scale=scaler.scale)
    rates = drop_rates(space, settings.dropout, settings.drop_connect)
    step = SandwichStep(supernet, task, objective, rates, execution=execution)
    sandwich = draw(space, settings.random_networks, np.random.default_rng(0))
    with patch("nasdeploy.nn.functional.is_faster", lambda *_: False):
        one_step(state, step, sandwich, settings)
        return one_step(state, step, sandwich, settings)


def main() -> None:
    """Print the counts of all cases, and the commonest operations of each role."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the counts there as well")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for name, (recipe, autocast) in CASES.items():
        counter = count(name)
        found[name] = counter.counts
        print(f"{name}, autocast {autocast} (recipe {recipe})")
        for role, number in counter.counts.items():
            commonest = ", ".join(f"{op} {n}" for (of, op), n in counter.names.most_common() if of == role)
            print(f"  {role:14} {number:7}  {commonest[:100]}")
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
