"""Both ways to ONNX for the blocks of mobile networks, those with TensorFlow's padding and odd sides among them."""

import numpy as np
import pytest
import torch

from nasdeploy.convert import quick_onnx, to_onnx
from nasdeploy.core.settings import parse
from nasdeploy.latency.profile import randomise_norms
from nasdeploy.nn.network import Network
from nasdeploy.spaces.grown import GrownSettings
from tests.convert.test_onnx import operators, run
from tests.exporting.converted import functions_read_once  # noqa: F401

PADDED = {"padding": "same", "bn_eps": 1e-3}
STAGES = [
    {
        "kind": "inverted-residual",
        "out_channels": 8,
        "mid_channels": 8,
        "kernel_size": 3,
        "stride": 1,
        "se_channels": 4,
        "activation": "hswish",
        "out_activation": "hswish",
    },
    dict(
        kind="fused-inverted-residual",
        out_channels=12,
        mid_channels=24,
        kernel_size=3,
        stride=2,
        se_channels=4,
        activation="relu6",
        **PADDED,
    ),
    dict(
        kind="universal-inverted-residual",
        out_channels=16,
        mid_channels=24,
        stride=2,
        start_kernel=3,
        middle_kernel=5,
        activation="relu",
        **PADDED,
    ),
    {
        "kind": "convolution",
        "out_channels": 16,
        "kernel_size": 3,
        "stride": 1,
        "activation": "swish",
        "shortcut": "identity",
    },
]
HEAD = {"activation": "hswish", "hidden_channels": 24, "hidden_bias": False, "hidden_norm": True}


@pytest.mark.slow
def test_measured_and_delivered_files_have_the_same_operators_and_agree_with_pytorch() -> None:
    content = {
        "name": "mobile",
        "resolution": [21],
        "stem": {"kind": "stem", "out_channels": 8, "kernel_size": 3, "stride": 2, "activation": "relu6", **PADDED},
        "stages": [{"blocks": [row]} for row in STAGES],
        "head": {"kind": "classifier", "classes": 1, **HEAD},
    }
    space = parse(GrownSettings, content, "mobile").build(5)
    torch.manual_seed(0)
    network = Network(space.plan(space.largest())).eval()
    randomise_norms(network)
    x = torch.randn(1, 3, 21, 21)
    delivered, measured = to_onnx(network), quick_onnx(network, [network.plan.only.inputs[0][1]], 1)
    assert operators(measured) == operators(delivered)
    with torch.no_grad():
        expected = network(x).numpy()
    for file in (delivered, measured):
        np.testing.assert_allclose(run(file, x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
