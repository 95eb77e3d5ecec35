"""Inverted residual blocks against those of torchvision and timm, and kernels that are computed from larger ones."""

from copy import deepcopy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models.mobilenetv3 import InvertedResidual as TorchvisionBlock
from torchvision.models.mobilenetv3 import InvertedResidualConfig

from nasdeploy.blocks.feature_maps import make_divisible
from nasdeploy.blocks.inverted_residual import InvertedResidual, KernelTransform
from nasdeploy.convert import quick_onnx, to_onnx
from nasdeploy.core.plan import Part, Plan, Step
from nasdeploy.core.space import Sharing
from nasdeploy.nn import cover
from nasdeploy.nn.functional import BATCH, Context
from nasdeploy.nn.inverted_residual import InvertedResidualFamily, InvertedResidualWeights, zero_last_scales
from nasdeploy.nn.network import Network, StaticBlock
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.device import load_device
from tests.exporting.converted import functions_read_once  # noqa: F401
from tests.nn.reference import randomise

ACTIVATIONS = {"RE": "relu", "HS": "hswish"}


def layers(module: nn.Module) -> list[nn.Module]:
    return [each for each in module.modules() if isinstance(each, nn.Conv2d | nn.BatchNorm2d)]


def with_weights_of(block: InvertedResidual, other: nn.Module) -> StaticBlock:
    """The block with the weights of another implementation's, whose layers come in the same order."""
    made = StaticBlock(block)
    assert isinstance(made.weights, InvertedResidualWeights)
    own = [each for each in layers(made.weights) if each is not made.weights.shortcut]
    for target, source in zip(own, layers(other), strict=True):
        target.load_state_dict(source.state_dict())
    return made


def assert_agree(block: InvertedResidual, other: nn.Module) -> None:
    randomise(other)
    made = with_weights_of(block, other).double()
    other = other.double()
    x = torch.randn(3, *block.inputs[0].shape, dtype=torch.float64)
    for training in (False, True):  # Training moves the running statistics of the other one.
        found = made.train(training)(x)
        torch.testing.assert_close(found, other.train(training)(x), rtol=1e-9, atol=1e-9)
        assert found.shape == (3, *block.output.shape)


MOBILENET = [
    # Of mobilenet_v3_small and _large: input, kernel, expanded, output, squeezed, activation, stride.
    (16, 3, 16, 16, True, "RE", 2),
    (16, 3, 72, 24, False, "RE", 2),
    (24, 3, 88, 24, False, "RE", 1),
    (24, 5, 96, 40, True, "HS", 2),
    (40, 5, 240, 40, True, "HS", 1),
    (96, 5, 576, 96, True, "HS", 1),
]


@pytest.mark.parametrize("side", [7, 8])
@pytest.mark.parametrize("row", MOBILENET)
def test_mobilenets_block_is_torchvisions(row: tuple[int, int, int, int, bool, str, int], side: int) -> None:
    inside, kernel, expanded, out, se, activation, stride = row
    torch.manual_seed(0)
    config = InvertedResidualConfig(inside, kernel, expanded, out, se, activation, stride, 1, 1.0)
    other = TorchvisionBlock(config, partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01))
    squeezed = make_divisible(expanded // 4) if se else 0
    block = InvertedResidual(
        side, inside, out, kernel, expanded, stride, squeezed, ACTIVATIONS[activation], bn_eps=1e-3
    )  # type: ignore[arg-type]
    assert_agree(block, other)


EFFICIENTNET = timm.create_model("tf_efficientnet_b0", num_classes=3)
BLOCKS = {f"{s}.{b}": block for s, stage in enumerate(EFFICIENTNET.blocks) for b, block in enumerate(stage)}


def of_efficientnet(found: nn.Module, side: int) -> InvertedResidual:
    depthwise, se = found.conv_dw, found.se
    project = found.conv_pwl if hasattr(found, "conv_pwl") else found.conv_pw
    return InvertedResidual(
        side,
        in_channels=(found.conv_pw if hasattr(found, "conv_pwl") else depthwise).in_channels,
        out_channels=project.out_channels,
        kernel_size=depthwise.kernel_size[0],
        mid_channels=depthwise.out_channels,
        stride=depthwise.stride[0],
        se_channels=se.conv_reduce.out_channels,
        activation="swish",
        gate="sigmoid",
        se_activation="swish",
        bn_eps=1e-3,
        padding="same",
    )


@pytest.mark.parametrize("side", [7, 8])
@pytest.mark.parametrize("name", ["0.0", "1.0", "1.1", "2.0", "3.0", "4.0", "5.0", "6.0"])
def test_efficientnets_block_of_tensorflow_is_timms(name: str, side: int) -> None:
    torch.manual_seed(0)
    assert_agree(of_efficientnet(BLOCKS[name], side), deepcopy(BLOCKS[name]))


def test_padding_of_tensorflow_by_hand() -> None:
    block = InvertedResidual(8, 4, 4, 5, 4, 2, 0, "relu", padding="same")
    assert block.margins == (1, 2)
    assert replace(block, side=7).margins == (2, 2)
    assert replace(block, kernel_size=3, stride=1).margins == (1, 1)
    assert replace(block, side=1, kernel_size=3).margins == (1, 1)
    assert replace(block, padding="symmetric").margins == (2, 2)


# -- shortcuts


def branch_alone(block: InvertedResidual, x: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs of the block, and of one with the same weights and no shortcut."""
    torch.manual_seed(0)
    made = StaticBlock(block)
    randomise(made)
    alone = StaticBlock(replace(block, shortcut="none"), made.weights)
    with torch.no_grad():
        return made.eval()(x), alone.eval()(x)


def test_the_identity_is_added_where_shapes_allow_it_alone() -> None:
    x = torch.randn(2, 8, 6, 6)
    block = InvertedResidual(6, 8, 8, 3, 16, 1, 0, "relu")
    whole, branch = branch_alone(block, x)
    assert torch.equal(whole, branch + x)
    for other in (replace(block, stride=2), replace(block, out_channels=16)):
        whole, branch = branch_alone(other, x)
        assert torch.equal(whole, branch)
        assert not other.residual
        assert StaticBlock(other).weights.shortcut is None


def test_scales_start_at_zero_only_where_a_shortcut_is_left() -> None:
    block = InvertedResidual(6, 8, 8, 3, 16, 1, 0, "relu")
    wider = replace(block, out_channels=16)
    for blocks, start in (([block], 0.0), ([wider], 1.0), ([block, wider], 1.0)):
        weights = cover("slot", blocks)
        zero_last_scales(weights)
        assert weights.project_norm.weight.unique().tolist() == [start]
        assert weights.depthwise_norm.weight.unique().tolist() == [1.0]


# -- kernels that are transformed


SMALL = InvertedResidual(6, 8, 8, 3, 16, 1, 8, "relu")
KERNELS = [SMALL, replace(SMALL, kernel_size=5), replace(SMALL, kernel_size=7, mid_channels=24)]


def transformed() -> InvertedResidualWeights:
    torch.manual_seed(0)
    weights = cover("slot", KERNELS, rule=KernelTransform())
    assert isinstance(weights, InvertedResidualWeights)
    return weights


def test_kernels_start_as_centres() -> None:
    weights = transformed()
    torch.manual_seed(0)
    centres = cover("slot", KERNELS)
    assert set(weights.state_dict()) - set(centres.state_dict()) == {"transforms.7to5", "transforms.5to3"}
    for block in KERNELS:
        found, expected = (InvertedResidualFamily.slice(w, block).depthwise.weight for w in (weights, centres))
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_kernel_is_the_centre_of_the_next_larger_one_times_a_matrix() -> None:
    weights = transformed()
    assert weights.transforms is not None
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for matrix in weights.transforms.values():
            matrix.copy_(torch.from_numpy(rng.normal(size=matrix.shape)))
    seven = weights.depthwise.weight.detach().numpy()[:16, 0]
    five = np.einsum("ot,ct->co", weights.transforms["7to5"].detach().numpy(), seven[:, 1:6, 1:6].reshape(16, 25))
    centre = five.reshape(16, 5, 5)[:, 1:4, 1:4].reshape(16, 9)
    three = np.einsum("ot,ct->co", weights.transforms["5to3"].detach().numpy(), centre).reshape(16, 1, 3, 3)
    found = InvertedResidualFamily.slice(weights, SMALL).depthwise.weight.detach().numpy()
    np.testing.assert_allclose(found, three, rtol=1e-4, atol=1e-6)


def test_gradients_reach_the_matrices_and_the_largest_kernel() -> None:
    weights = transformed()
    x = torch.randn(2, 8, 6, 6)
    tensors = InvertedResidualFamily.slice(weights, SMALL)
    InvertedResidualFamily.forward(SMALL, tensors, x, context=Context(BATCH)).square().sum().backward()
    assert weights.transforms is not None
    for parameter in (*weights.transforms.values(), weights.depthwise.weight):
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_a_rule_that_a_family_does_not_know_is_refused() -> None:
    class Other(Sharing):
        pass

    with pytest.raises(ValueError, match=r"slot s: InvertedResidual blocks cannot inherit by .*Other"):
        cover("s", KERNELS, rule=Other())


# -- export


@pytest.mark.parametrize("gate", ["sigmoid", "hardsigmoid"])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("shortcut", ["none", "identity", "average"])
def test_a_fast_export_computes_the_same(gate: str, padding: str, shortcut: str) -> None:
    block = InvertedResidual(8, 8, 12, 5, 24, 2, 8, "hswish", shortcut, gate, "swish", 1e-3, padding)  # type: ignore[arg-type]
    torch.manual_seed(0)
    made = StaticBlock(block).eval()
    randomise(made)
    x = torch.randn(2, *block.inputs[0].shape)
    session = runtime_of(CPU).open(quick_onnx(made, block.inputs, 2), CPU)
    (found,) = session.run({next(iter(session.inputs)): x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, made(x).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_the_deliverable_computes_the_same(padding: str) -> None:
    block = InvertedResidual(8, 8, 12, 5, 24, 2, 8, "swish", "none", "sigmoid", "swish", 1e-3, padding)  # type: ignore[arg-type]
    again = replace(block, side=4, in_channels=12, kernel_size=3, stride=1, shortcut="identity")
    steps = (Step("first", block, ("input",)), Step("second", again, ("first",)))
    torch.manual_seed(0)
    network = Network(Plan((Part("network", (("input", block.inputs[0]),), steps, ("second",)),))).eval()
    randomise(network)
    x = torch.randn(3, *block.inputs[0].shape)
    session = runtime_of(CPU).open(to_onnx(network), CPU)
    (found,) = session.run({next(iter(session.inputs)): x.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, network(x).numpy(), rtol=1e-4, atol=1e-5)


CPU = load_device("cpu")
