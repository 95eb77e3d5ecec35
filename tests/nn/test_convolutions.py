"""Fused and universal inverted residuals and plain convolutions against timm's, in evaluation and in training."""

from functools import partial

import pytest
import torch
from timm.models._efficientnet_blocks import (
    ConvBnAct,
    DepthwiseSeparableConv,
    EdgeResidual,
    SqueezeExcite,
    UniversalInvertedResidual,
)
from torch import nn

from nasdeploy.core.settings import parse
from nasdeploy.importers.timm_efficientnet import EfficientNetReader
from nasdeploy.nn.functional import BATCH, Context
from nasdeploy.nn.network import StaticBlock
from nasdeploy.spaces.grown import FEATURES
from tests.nn.reference import randomise

NORM = partial(nn.BatchNorm2d, eps=1e-3)
SQUEEZE = partial(SqueezeExcite, rd_ratio=0.25, gate_layer=nn.Hardsigmoid)
MADE = {
    "convolution": partial(ConvBnAct, 16, 24, 3, stride=2, pad_type="same", act_layer=nn.ReLU6, norm_layer=NORM),
    "convolution-5": partial(ConvBnAct, 16, 16, 5, skip=True, act_layer=nn.SiLU),
    "separable": partial(DepthwiseSeparableConv, 16, 16, 3, pw_act=True, act_layer=nn.Hardswish, se_layer=SQUEEZE),
    "fused": partial(EdgeResidual, 16, 24, 5, stride=2, exp_ratio=4, pad_type="same", norm_layer=NORM),
    "fused-se": partial(EdgeResidual, 16, 16, exp_ratio=3, act_layer=nn.SiLU, se_layer=SQUEEZE),
    "universal": partial(UniversalInvertedResidual, 16, 24, 3, 5, stride=2, exp_ratio=3, norm_layer=NORM),
    "universal-start": partial(UniversalInvertedResidual, 16, 24, 5, 0, stride=2, exp_ratio=2),
    "universal-same": partial(UniversalInvertedResidual, 16, 24, 3, 5, stride=2, exp_ratio=2, pad_type="same"),
    "universal-middle": partial(UniversalInvertedResidual, 16, 16, 0, 3, exp_ratio=4, act_layer=nn.SiLU),
    "universal-plain": partial(UniversalInvertedResidual, 16, 16, 0, 0, exp_ratio=2),
}


def made(name: str, side: int) -> tuple[StaticBlock, nn.Module]:
    """The block with the weights of timm's, and that one."""
    torch.manual_seed(0)
    options = {"layer_scale_init_value": None} if name.startswith("universal") else {}
    other = MADE[name](**options)
    randomise(other)
    row, weights = EfficientNetReader("timm:mine", other).block(other)
    block = parse(FEATURES[row["kind"]], row, "row").block(side, in_channels=16)
    static = StaticBlock(block)
    static.weights.load_state_dict(weights)
    return static, other


@pytest.mark.parametrize("side", [7, 8])
@pytest.mark.parametrize("name", MADE)
def test_blocks_are_timms(name: str, side: int) -> None:
    static, other = made(name, side)
    static, other = static.double(), other.double()
    x = torch.randn(3, 16, side, side, dtype=torch.float64)
    for training in (False, True):  # Training moves the running statistics of the other one.
        found = static.train(training)(x)
        torch.testing.assert_close(found, other.train(training)(x), rtol=1e-9, atol=1e-9)
        assert found.shape == (3, *static.block.output.shape)
    assert static.block.params == sum(each.numel() for each in other.parameters())


@pytest.mark.parametrize("name", ["convolution-5", "fused-se", "universal-plain", "fused"])
def test_what_is_dropped_is_the_branch_beside_a_shortcut(name: str) -> None:
    static, _ = made(name, 8)
    x = torch.randn(64, 16, 8, 8)
    kept = static.compute(x, context=Context(BATCH))
    found = static.compute(x, context=Context(BATCH, drop=0.5))
    if static.block.inputs[0] != static.block.output:
        assert torch.equal(found, kept)
        return
    dropped = (found == x).flatten(1).all(1)
    assert 16 < dropped.sum() < 48
    # The others count twice, so that the mean stays.
    torch.testing.assert_close(found[~dropped] - x[~dropped], 2 * (kept - x)[~dropped], rtol=1e-4, atol=1e-4)
