"""Conversion to ncnn: many modules in one call of its converter."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from nasdeploy.blocks.heads import PoolHead, Stem
from nasdeploy.blocks.inverted_residual import MBConv
from nasdeploy.convert import MeasuredModule
from nasdeploy.convert import ncnn as module
from nasdeploy.convert.ncnn import NcnnConverter, to_ncnn
from nasdeploy.core.errors import ConversionRefused, UserError
from nasdeploy.core.plan import TensorType
from nasdeploy.latency.profile import measured_block
from nasdeploy.runtimes import RUNTIMES
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.ncnn_files import NcnnModel

DEVICE = Device(name="here", runtime="ncnn")
BLOCKS = (
    Stem(side=12, out_channels=8, kernel_size=3, stride=2, activation="swish", in_channels=3),
    MBConv(8, 16, 16, kernel_size=3, expand_ratio=4, stride=1, se=True, activation="hswish"),
    PoolHead(4, 24, 32, expand_ratio=6, classes=10, activation="hswish"),
)


def _has_pnnx() -> bool:
    try:
        module._tool()
    except UserError:
        return False
    return True


pytestmark = pytest.mark.skipif(
    not _has_pnnx() or RUNTIMES["ncnn"].missing() is not None, reason="ncnn or pnnx is not installed"
)


class Odd(nn.Module):
    """A function that ncnn has no layer for."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.erfinv(x) + 1


@pytest.fixture
def calls(monkeypatch):
    """How many modules each call of pnnx was given."""
    found = []
    original = module._Branches.converted

    def converted(self, *rest):
        found.append(len(self.branches))
        return original(self, *rest)

    monkeypatch.setattr(module._Branches, "converted", converted)
    return found


def test_blocks_of_one_call_are_models_of_their_own_and_those_that_are_refused_are_named(calls):
    torch.manual_seed(0)
    measured = [measured_block(block) for block in BLOCKS]
    odd = MeasuredModule(Odd(), (TensorType((1, 5, 5)),))
    found = NcnnConverter().convert([measured[0], odd, *measured[1:]], DEVICE)
    assert calls == [4, 3]
    assert isinstance(found[1], ConversionRefused)
    assert re.match(r"pnnx cannot convert it \(operator aten::erfinv is none that ncnn has\); ", str(found[1]))
    for each, model in zip(measured, [found[0], *found[2:]], strict=True):
        assert isinstance(model, bytes)
        session = RUNTIMES["ncnn"].open(model, DEVICE)
        x = torch.randn(2, *each.inputs[0].shape)
        with torch.no_grad():
            expected = each.module(x).numpy()
        (got,) = session.run({"input.0": x.numpy()})
        session.close()
        assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


def test_weights_in_fp16_take_half_the_room():
    block = measured_block(BLOCKS[2])
    (whole,), (half,) = (to_ncnn([(block.module, block.inputs)], precision) for precision in ("fp32", "fp16"))
    assert isinstance(whole, NcnnModel) and isinstance(half, NcnnModel)
    assert 0.5 * len(whole.bin) <= len(half.bin) < 0.55 * len(whole.bin)


def test_a_converter_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^the converter to ncnn is not installed; run: pip install pnnx$"):
        to_ncnn([])
