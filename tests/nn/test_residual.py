"""Blocks of ResNets against timm's: in training and evaluation, at odd sides, and what smaller ones take."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from timm.layers.squeeze_excite import SEModule
from timm.models.resnet import BasicBlock as TimmBasic
from timm.models.resnet import Bottleneck as TimmBottleneck
from timm.models.resnet import downsample_avg, downsample_conv
from torch import nn

from nasdeploy.blocks.residual import BasicBlock, Bottleneck, PoolingStem
from nasdeploy.convert import quick_onnx, to_onnx
from nasdeploy.core.plan import Part, Plan, Step
from nasdeploy.core.space import Sharing
from nasdeploy.nn.functional import BATCH, Context
from nasdeploy.nn.network import Network, StaticBlock
from nasdeploy.nn.residual import BasicBlockFamily, BottleneckFamily
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.device import load_device
from tests.convert.test_onnx import operators
from tests.exporting.converted import functions_read_once  # noqa: F401
from tests.nn.reference import randomise

BASIC = BasicBlock(9, 16, 24, 32, 2, "relu")
BOTTLENECK = Bottleneck(9, 16, 32, 24, 2, "relu")
BLOCKS = {
    "basic": BASIC,
    "basic-average": replace(BASIC, projection="average"),
    "basic-average-even": replace(BASIC, side=8, projection="average"),
    "basic-identity": replace(BASIC, in_channels=24, stride=1),
    "basic-se": replace(BASIC, se_channels=8),
    "bottleneck": BOTTLENECK,
    "bottleneck-average": replace(BOTTLENECK, projection="average"),
    "bottleneck-wider": replace(BOTTLENECK, stride=1),
    "bottleneck-identity": replace(BOTTLENECK, in_channels=32, stride=1),
    "bottleneck-groups": replace(BOTTLENECK, group_width=8, se_channels=8, bn_eps=1e-3),
}


def timms(block: BasicBlock | Bottleneck) -> nn.Module:
    """The same block of timm's, whose widths are given by other numbers."""
    norm = lambda channels, **more: nn.BatchNorm2d(channels, eps=block.bn_eps)  # noqa: E731
    make = downsample_avg if block.projection == "average" else downsample_conv
    shortcut = None
    if not block.identity:
        shortcut = make(block.in_channels, block.out_channels, 1, block.stride, norm_layer=norm)
    se = (lambda channels, **more: SEModule(channels, rd_channels=block.se_channels)) if block.se_channels else None
    kind = TimmBottleneck if isinstance(block, Bottleneck) else TimmBasic
    made = kind(block.in_channels, block.out_channels // kind.expansion, block.stride, shortcut, norm_layer=norm)
    if isinstance(block, Bottleneck):
        inside, mid, out = block.in_channels, block.mid_channels, block.out_channels
        made.conv1, made.bn1 = nn.Conv2d(inside, mid, 1, bias=False), norm(mid)
        made.conv2 = nn.Conv2d(mid, mid, 3, block.stride, 1, groups=block.groups, bias=False)
        made.bn2, made.conv3 = norm(mid), nn.Conv2d(mid, out, 1, bias=False)
    else:
        made.conv1 = nn.Conv2d(block.in_channels, block.mid_channels, 3, block.stride, 1, bias=False)
        made.bn1, made.conv2 = (
            norm(block.mid_channels),
            nn.Conv2d(block.mid_channels, block.out_channels, 3, 1, 1, bias=False),
        )
    made.se = se(block.out_channels) if se else None
    return made


def with_weights_of(block: BasicBlock | Bottleneck, other: nn.Module) -> StaticBlock:
    made = StaticBlock(block)
    weights = made.weights
    numbers = (1, 2, 3) if isinstance(block, Bottleneck) else (1, 2)
    pairs = [(f"conv{n}", f"conv{n}") for n in numbers] + [(f"conv{n}_norm", f"bn{n}") for n in numbers]
    pairs += [("reduce", "se.fc1"), ("restore", "se.fc2")] if block.se_channels else []
    if other.downsample is not None:
        last = len(other.downsample) - 1
        pairs += [("shortcut", f"downsample.{last - 1}"), ("shortcut_norm", f"downsample.{last}")]
    for own, given in pairs:
        weights.get_submodule(own).load_state_dict(other.get_submodule(given).state_dict())
    assert {name.split(".")[0] for name in weights.state_dict()} == {own for own, _ in pairs}
    return made


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_timms(name: str) -> None:
    block = BLOCKS[name]
    torch.manual_seed(0)
    other = timms(block)
    randomise(other)
    made, other = with_weights_of(block, other).double(), other.double()
    x = torch.randn(3, *block.inputs[0].shape, dtype=torch.float64)
    for training in (False, True):  # Training moves the running statistics of the other one.
        found = made.train(training)(x)
        torch.testing.assert_close(found, other.train(training)(x.clone()), rtol=1e-9, atol=1e-9)
        assert found.shape == (3, *block.output.shape)


def test_smaller_blocks_have_fewer_middle_channels_in_whole_groups() -> None:
    assert BASIC.cut(1, 50) == replace(BASIC, mid_channels=16)
    assert BASIC.cut(3, 100) == BASIC
    grouped = Bottleneck(8, 64, 64, 96, 1, "relu", group_width=12)
    assert [grouped.cut(3, percent).mid_channels for percent in (25, 50, 75, 100)] == [24, 48, 72, 96]
    assert [grouped.cut(3, percent).groups for percent in (25, 50, 75, 100)] == [2, 4, 6, 8]


def test_they_take_leading_channels() -> None:
    weights = BottleneckFamily.cover([BOTTLENECK, BOTTLENECK.cut(3, 50)], Sharing())
    small = BOTTLENECK.cut(3, 34)
    assert small.mid_channels == 8
    tensors = BottleneckFamily.slice(weights, small)
    assert torch.equal(tensors.conv1.weight, weights.conv1.weight[:8])
    assert torch.equal(tensors.conv2.weight, weights.conv2.weight[:8, :8])
    assert torch.equal(tensors.conv3.weight, weights.conv3.weight[:, :8])
    assert tensors.conv3.norm.weight.shape == (32,)


def test_channels_of_a_group_stay_together() -> None:
    (middle,) = BottleneckFamily.middles(StaticBlock(BLOCKS["bottleneck-groups"]).weights)
    assert middle.order(torch.tensor([2, 0, 1])).tolist() == [*range(16, 24), *range(8), *range(8, 16)]


def test_whole_samples_of_the_branch_are_dropped() -> None:
    block = replace(BASIC, in_channels=24, stride=1)
    made = StaticBlock(block)
    randomise(made)
    x = torch.randn(64, *block.inputs[0].shape)
    torch.manual_seed(1)
    tensors = BasicBlockFamily.slice(made.weights, block)
    with torch.no_grad():
        found = BasicBlockFamily.forward(block, tensors, x, context=Context(BATCH, drop=0.25))
    shortcuts = sum(torch.equal(one, given.relu()) for one, given in zip(found, x, strict=True))
    assert 4 <= shortcuts <= 28


CPU = load_device("cpu")


def chain(*blocks: PoolingStem | BasicBlock | Bottleneck) -> Network:
    names = ["input", *(f"block{number}" for number in range(len(blocks)))]
    steps = tuple(Step(name, block, (before,)) for before, name, block in zip(names, names[1:], blocks, strict=False))
    return Network(Plan((Part("network", (("input", blocks[0].inputs[0]),), steps, (names[-1],)),)))


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["max", "convolution"])
def test_both_exports_have_the_same_operators_and_compute_the_same(pooling: str) -> None:
    stem = PoolingStem(33, 3, 16, 3, "relu", 8, 16, pooling)  # type: ignore[arg-type]
    torch.manual_seed(0)
    network = chain(stem, BLOCKS["basic-average"], Bottleneck(5, 24, 32, 16, 2, "relu", se_channels=8, group_width=8))
    randomise(network.eval())
    quick, deliverable = quick_onnx(network, stem.inputs, 1), to_onnx(network)
    assert operators(quick) == operators(deliverable)
    x = torch.randn(1, *stem.inputs[0].shape)
    with torch.no_grad():
        expected = network(x).numpy()
    for model in (quick, deliverable):
        session = runtime_of(CPU).open(model, CPU)
        (found,) = session.run({next(iter(session.inputs)): x.numpy()})
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
