"""Every runtime, in every precision, against PyTorch on real blocks of every family."""

from collections.abc import Iterator
from functools import cache, partial

import numpy as np
import pytest
import torch

from nasdeploy.blocks.convolutions import ConvBlock, FusedInvertedResidual
from nasdeploy.blocks.heads import ClassifierHead, PoolHead, Stem
from nasdeploy.blocks.inverted_residual import InvertedResidual, MBConv
from nasdeploy.blocks.residual import BasicBlock, Bottleneck, PoolingStem
from nasdeploy.blocks.universal_residual import UniversalInvertedResidual
from nasdeploy.convert import MeasuredModule, model_for, models_for
from nasdeploy.latency.profile import randomise_norms
from nasdeploy.nn import FAMILIES
from nasdeploy.nn.network import Network, StaticBlock
from nasdeploy.runtimes import RUNTIMES, runtime_of
from nasdeploy.runtimes.device import Device
from nasdeploy.spaces import load_space
from tests.conformance.test_runtimes import usable
from tests.families.blocks import Attend, Embed, Join, Lift, Mix, Summary, Unembed
from tests.families.families import registered

BLOCKS = {
    "stem": Stem(side=12, out_channels=16, kernel_size=3, stride=2, activation="swish", in_channels=3),
    "identity": MBConv(8, 16, 16, kernel_size=3, expand_ratio=4, stride=1, se=False, activation="relu"),
    "no-expansion": MBConv(8, 16, 24, kernel_size=3, expand_ratio=1, stride=1, se=False, activation="swish"),
    "se-stride": MBConv(9, 16, 24, kernel_size=5, expand_ratio=4, stride=2, se=True, activation="swish"),
    "se-hswish": MBConv(8, 16, 16, kernel_size=5, expand_ratio=6, stride=1, se=True, activation="hswish"),
    "efficientnet": InvertedResidual(9, 16, 16, 5, 48, 2, 8, "swish", "none", "sigmoid", "swish", 1e-3, "same"),
    "mobilenet": InvertedResidual(8, 16, 16, 3, 40, 1, 16, "hswish", bn_eps=1e-3),
    "mobilenet-v1": InvertedResidual(9, 16, 24, 3, 16, 2, 0, "relu6", "none", out_activation="relu6"),
    "fused": FusedInvertedResidual(9, 16, 24, 3, 48, 2, 0, "relu", bn_eps=1e-3, padding="same"),
    "fused-se": FusedInvertedResidual(8, 16, 16, 3, 40, 1, 8, "swish", se_activation="swish"),
    "universal": UniversalInvertedResidual(9, 16, 24, 40, 2, "relu", 5, 3, bn_eps=1e-3, padding="same"),
    "universal-start": UniversalInvertedResidual(9, 16, 24, 40, 2, "relu", 3),
    "universal-plain": UniversalInvertedResidual(8, 16, 16, 40, 1, "swish"),
    "convolution": ConvBlock(9, 16, 24, 3, 2, "swish", bn_eps=1e-3, padding="same"),
    "convolution-residual": ConvBlock(8, 16, 16, 3, 1, "hswish", "identity"),
    "head": PoolHead(4, 24, 64, expand_ratio=6, classes=10, activation="hswish"),
    "classifier": ClassifierHead(4, 24, 10, "relu6", conv_channels=32, hidden_channels=40, bn_eps=1e-3),
    "classifier-norm": ClassifierHead(4, 24, 10, "hswish", hidden_channels=40, hidden_bias=False, hidden_norm=True),
    "deep-stem": PoolingStem(17, 3, 16, 3, "relu", first_channels=8, second_channels=12),
    "stem-without-maximum": PoolingStem(16, 3, 16, 7, "relu", pooling="convolution"),
    "basic": BasicBlock(9, 16, 24, mid_channels=32, stride=2, activation="relu", projection="average"),
    "bottleneck": Bottleneck(8, 32, 32, mid_channels=16, stride=1, activation="relu", se_channels=8, group_width=4),
    "strided-bottleneck": Bottleneck(8, 16, 32, mid_channels=16, stride=2, activation="swish"),
    "linear": Lift(6, 4, 16),
    "perceptron": Mix(6, 16, 4),
    "mean": Summary(6, 16),
    "embedding": Embed(3, 16, 7),
    "sum": Join(3, 16),
    "attention": Attend(3, 6, 16),
    "logits": Unembed(3, 16, 7),
}
ALLOWED = {"fp32": 1e-5, "fp16": 5e-3}
"""Of the outputs' largest value. In int8 single outputs are clipped to the ranges of other random inputs."""


@pytest.fixture(autouse=True)
def writer_families() -> Iterator[None]:
    with registered():
        yield


def test_every_family_is_covered():
    assert {type(block) for block in BLOCKS.values()} == set(FAMILIES)


def drawn(tensor, batch, generator):
    """A tensor of a type."""
    if tensor.values is not None:
        return torch.randint(tensor.values, (batch, *tensor.shape), generator=generator)
    return torch.randn(batch, *tensor.shape, generator=generator)


@cache
def measured(name):
    """A block with weights, always the same."""
    torch.manual_seed(0)
    module = StaticBlock(BLOCKS[name])
    randomise_norms(module)
    return MeasuredModule(module, BLOCKS[name].inputs)


@cache
def makers(device_json):
    """Makers of all blocks' models: some converters take seconds to start, and are given all at once."""
    device = Device.model_validate_json(device_json)
    return models_for({name: partial(measured, name) for name in BLOCKS}, device)


def outputs(module, types, model, device, batch):
    """The runtime's and PyTorch's."""
    generator = torch.Generator().manual_seed(1)
    given = [drawn(tensor, batch, generator) for tensor in types]
    with torch.no_grad():
        expected = module.eval()(*given).numpy()
    session = runtime_of(device).open(model, device)
    session.call()
    # Blocks for LiteRT take and give images with their channels last.
    turned = RUNTIMES[device.runtime].form == "tflite" and isinstance(module, StaticBlock)
    given = [x.permute(0, 2, 3, 1) if turned and x.ndim == 4 else x for x in given]
    assert list(session.inputs.values()) == [tuple(x.shape) for x in given]
    # Of ONNX files those of blocks take and give fp16; others take and give fp32 always.
    onnx = RUNTIMES[device.runtime].form == "onnx"
    half = device.precision == "fp16" and onnx and not isinstance(module, Network)
    arrays = [x.half() if half and x.is_floating_point() else x for x in given]
    (found,) = session.run({name: x.numpy() for name, x in zip(session.inputs, arrays, strict=True)})
    session.close()
    found = found.transpose(0, 3, 1, 2) if turned and found.ndim == 4 else found
    assert found.dtype == (np.float16 if half else np.float32)
    return found.astype(np.float32), expected


def agree(found, expected, precision):
    assert found.shape == expected.shape
    if precision == "int8":
        assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.97
    else:
        assert np.abs(found - expected).max() < ALLOWED[precision] * np.abs(expected).max()


PAIRS = [
    pytest.param(name, precision, marks=pytest.mark.gpu if RUNTIMES[name].needs_gpu else (), id=f"{name}-{precision}")
    for name, runtime in RUNTIMES.items()
    for precision in runtime.precisions
    if runtime.form != "program"
]


@pytest.mark.parametrize(("runtime", "precision"), PAIRS)
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_agree_with_pytorch(name, runtime, precision, request):
    if (name, runtime, precision) == ("se-stride", "openvino", "int8"):
        reason = "OpenVINO 2026.4 computes int8 blocks with a stride and odd sides wrongly; only its time is used"
        request.applymarker(pytest.mark.xfail(reason=reason))
    if (name, runtime, precision) == ("mean", "openvino", "int8"):
        reason = "OpenVINO 2026.4 computes an int8 mean over the length wrongly; only its time is used"
        request.applymarker(pytest.mark.xfail(reason=reason))
    batch = RUNTIMES[runtime].largest_batch or 2
    device = usable(runtime).model_copy(update={"precision": precision, "batch": batch})
    block = measured(name)
    model = makers(device.model_dump_json())[name]()
    agree(*outputs(block.module, block.inputs, model, device, batch), precision)


@pytest.mark.parametrize(("runtime", "precision"), PAIRS)
def test_networks_agree_with_pytorch(runtime, precision):
    device = usable(runtime).model_copy(update={"precision": precision})
    torch.manual_seed(0)
    space = load_space("digits", 10)
    plan = space.plan(space.smallest())
    network, types = Network(plan), [plan.only.inputs[0][1]]
    randomise_norms(network)
    found, expected = outputs(network, types, model_for(network, types, device), device, 1)
    assert found.shape == (1, 10)
    agree(found, expected, precision)
