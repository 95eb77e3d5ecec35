"""Compiled blocks: the same losses and gradients in the supernet as computed operation by operation."""

import shutil
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from nasdeploy.blocks.mbconv import MBConv
from nasdeploy.nn import FAMILIES, Forward, eager
from nasdeploy.nn.compiled import compiled
from nasdeploy.nn.functional import BATCH
from nasdeploy.plan import Block
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.train.losses import distillation_loss
from nasdeploy.train.sandwich import Losses, SandwichStep, draw
from nasdeploy.train.settings import DistillationSettings
from tests.nn.reference import randomise
from tests.supernet.tiny import tiny_space


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def step(forward_of: Callable[[Block], Forward]) -> tuple[Losses, dict[str, Tensor]]:
    torch.manual_seed(0)
    supernet = Supernet(tiny_space())
    randomise(supernet)
    made = SandwichStep(supernet, distillation_loss(DistillationSettings()), 0.1, {}, forward_of=forward_of)
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    losses = made(draw(supernet.space, 1, np.random.default_rng(0)), images, labels)
    return losses, {name: p.grad for name, p in supernet.named_parameters() if p.grad is not None}


@pytest.mark.slow
def test_a_sandwich_step_is_the_same_bit_for_bit_without_code_generation() -> None:
    losses, gradients = step(eager)
    compiled_losses, compiled_gradients = step(compiled("aot_eager"))
    assert compiled_losses == losses
    assert compiled_gradients.keys() == gradients.keys()
    assert all(torch.equal(compiled_gradients[name], gradients[name]) for name in gradients)


@pytest.mark.slow
def test_a_block_is_compiled_once_whatever_networks_it_stands_in() -> None:
    space, forward_of = tiny_space(), compiled("aot_eager")
    supernet, images, rng = Supernet(space), torch.randn(2, 3, 8, 8), np.random.default_rng(1)
    archs = [space.sample(rng) for _ in range(3)]
    for arch in [*archs, *archs]:
        supernet(images, arch, forward_of=forward_of)
    blocks = {step.block for arch in archs for step in space.plan(arch)}
    assert counters["stats"]["unique_graphs"] == len(blocks)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor generates C++ for the CPU, which needs g++")
def test_generated_code_agrees() -> None:
    space = tiny_space()
    slot, block = next((s.name, s.block) for s in space.plan(space.largest()) if isinstance(s.block, MBConv))
    supernet = Supernet(space)
    randomise(supernet)
    tensors = FAMILIES[type(block)].slice(supernet.weights[slot], block)
    x = torch.randn(2, *block.inputs[0])
    expected = eager(block)(tensors, x, BATCH, 0.0)
    found = compiled()(block)(tensors, x, BATCH, 0.0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
