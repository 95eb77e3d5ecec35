"""Blocks compiled by inductor, which generates code; run by test_compiled.py in a process of its own."""

import json
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from nasdeploy.blocks.inverted_residual import MBConv
from nasdeploy.core.progress import Progress
from nasdeploy.nn import FAMILIES, eager
from nasdeploy.nn.compiled import compiled
from nasdeploy.nn.functional import BATCH, Context
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.workflows.train import train
from tests.nn.reference import randomise
from tests.small_spaces import two_stages
from tests.training.recipes import tiny_recipe


def test_a_run_trains_with_compiled_blocks(tmp_path: Path) -> None:
    space = (
        "space.resolution=[8]",
        "space.stages=[{width: [8], depth: [1], kernel: [3], expand: [2], stride: 2}]",
        "train.epochs=1",
        "train.drop_connect=0",
        "train.dropout=0",
    )
    losses = []
    for compile_blocks in ("false", "true"):
        recipe = tiny_recipe(*space, f"train.compile={compile_blocks}")
        run = train(recipe, tmp_path / compile_blocks, Progress(quiet=True))
        assert run is not None
        losses.append(json.loads(run.metrics.read_text())["loss_largest"])
    assert counters["stats"]["unique_graphs"] >= 3
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_generated_code_agrees() -> None:
    space = two_stages()
    slot, block = next((s.name, s.block) for s in space.plan(space.largest()) if isinstance(s.block, MBConv))
    supernet = Supernet(space)
    randomise(supernet)
    tensors = FAMILIES[type(block)].slice(supernet.weights[slot], block)
    x = torch.randn(2, *block.inputs[0].shape)
    expected = eager(block)(tensors, x, context=Context(BATCH))
    found = compiled(pytest.fail)(block)(tensors, x, context=Context(BATCH))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
