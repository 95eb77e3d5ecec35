"""Compiled blocks: the same losses and gradients in the supernet as computed operation by operation."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from nasdeploy.blocks.inverted_residual import MBConv
from nasdeploy.core.plan import Block
from nasdeploy.nn import FAMILIES, Forward, eager
from nasdeploy.nn.compiled import compiled
from nasdeploy.nn.functional import BATCH, Context
from nasdeploy.nn.network import StaticBlock
from nasdeploy.spaces.mobilenet import MobileNetTable
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.tasks.classification import Classification
from nasdeploy.tasks.image_data import distillation_loss, label_loss
from nasdeploy.tasks.task import Objective
from nasdeploy.training.sampling import draw
from nasdeploy.training.sandwich import Losses, SandwichStep, StepComputation
from nasdeploy.training.step_settings import DistillationSettings
from tests.nn.reference import randomise

SPACE = MobileNetTable.model_validate_json(
    """{"name": "tiny", "resolution": [6], "activation": "swish", "stem": {"width": [8]},
    "stages": [
        {"width": [8], "depth": [1], "kernel": [3, 5], "expand": [1, 2], "stride": 1},
        {"width": [12], "depth": [1, 2], "kernel": [3], "expand": [2], "stride": 2, "se": true}],
    "head": {"width": [16], "expand": 2}}"""
).build(3)
"""Every kind of block and few of each: compiling one takes a second."""
FRUGAL = {"TORCHINDUCTOR_VEC_ISA_OK": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
"""The settings of inductor that pay for few kernels: no programs that try vector instructions, no processes beside."""


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def step(forward_of: Callable[[Block], Forward]) -> tuple[Losses, dict[str, Tensor]]:
    torch.manual_seed(0)
    supernet = Supernet(SPACE)
    randomise(supernet)
    objective = Objective(partial(label_loss, smoothing=0.1), distillation_loss(DistillationSettings()))
    made = SandwichStep(supernet, Classification(), objective, {}, execution=StepComputation(forward_of=forward_of))
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    losses = made(draw(supernet.space, 1, np.random.default_rng(0)), (images,), labels)
    return losses, {name: p.grad for name, p in supernet.named_parameters() if p.grad is not None}


@pytest.mark.slow
def test_a_sandwich_step_is_the_same_bit_for_bit_without_code_generation() -> None:
    losses, gradients = step(eager)
    compiled_losses, compiled_gradients = step(compiled(pytest.fail, "aot_eager"))
    assert compiled_losses == losses
    assert compiled_gradients.keys() == gradients.keys()
    assert all(torch.equal(compiled_gradients[name], gradients[name]) for name in gradients)


@pytest.mark.slow
def test_a_block_is_compiled_once_whatever_networks_it_stands_in() -> None:
    forward_of = compiled(pytest.fail, "aot_eager")
    supernet, images, rng = Supernet(SPACE), torch.randn(2, 3, 8, 8), np.random.default_rng(1)
    archs = [SPACE.sample(rng) for _ in range(3)]
    for arch in [*archs, *archs]:
        supernet(images, arch, forward_of=forward_of)
    blocks = {step.block for arch in archs for step in SPACE.plan(arch)}
    assert counters["stats"]["unique_graphs"] == len(blocks)


def test_a_block_that_cannot_be_compiled_is_named_once_and_all_goes_on() -> None:
    def backend(*arguments: object) -> None:
        raise RuntimeError("no C++ compiler\nis here")

    block = next(step.block for step in SPACE.plan(SPACE.smallest()) if isinstance(step.block, MBConv))
    module = StaticBlock(block)
    tensors = FAMILIES[MBConv].slice(module.weights, block)
    images, said = torch.randn(2, *block.inputs[0].shape), list[str]()
    made = compiled(said.append, backend)(block)
    for _ in range(2):
        assert torch.equal(
            made(tensors, images, context=Context(BATCH)), eager(block)(tensors, images, context=Context(BATCH))
        )
    (line,) = said
    assert line.startswith(f"train.compile: {block.key} cannot be compiled (")
    assert "no C++ compiler is here" in line


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor generates C++ for the CPU, which needs g++")
def test_generated_code_agrees_and_trains() -> None:
    # In a process of its own: generated code brings its own OpenMP, which can end a process that holds other runtimes.
    cases = Path(__file__).with_name("generated_code.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", str(cases)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cases.parents[2], env={**os.environ, **FRUGAL}
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
