"""Blocks against networks of torch's own modules, and against formulas worked out by hand."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasdeploy.blocks.heads import ClassifierHead, PoolHead, Stem
from nasdeploy.blocks.inverted_residual import MBConv
from nasdeploy.core.plan import Block
from nasdeploy.core.space import Sharing
from nasdeploy.nn.functional import BATCH, RUNNING, Context, Statistics
from nasdeploy.nn.heads import ClassifierHeadFamily
from nasdeploy.nn.inverted_residual import InvertedResidualFamily, InvertedResidualWeights, zero_last_scales
from nasdeploy.nn.network import Network, StaticBlock
from nasdeploy.spaces import load_space
from tests.nn.reference import randomise, reference, reference_network

Array = npt.NDArray[np.float64]


def mbconv(
    side: int, inside: int, out: int, kernel: int = 3, expand: int = 4, stride: int = 1, **more: object
) -> MBConv:
    return MBConv(side, inside, out, kernel, expand, stride, **{"se": True, "activation": "swish", **more})  # type: ignore[arg-type]


def shortcut_alone(block: MBConv) -> nn.Module:
    """A block whose shortcut alone is left: the scale of its last normalisation is zero."""
    module = StaticBlock(block).double()
    zero_last_scales(module)
    return module


BLOCKS = [
    Stem(9, 16, 3, 2, "swish", 3),
    Stem(8, 24, 5, 1, "relu", 3),
    mbconv(8, 16, 16),
    mbconv(8, 16, 24, kernel=5, stride=2, activation="hswish"),
    mbconv(7, 16, 24, stride=2, se=False),
    mbconv(7, 16, 16, kernel=7, stride=2, activation="relu"),
    mbconv(6, 16, 16, expand=1),
    # Widths that are no multiples of 8: without expansion the middle is the input, as it is.
    mbconv(6, 12, 20, expand=1, se=False),
    mbconv(5, 12, 12, expand=1),
    mbconv(5, 11, 13, expand=3, stride=2),
    PoolHead(4, 20, 48, 6, 10, "swish"),
    PoolHead(1, 13, 9, 2, 3, "hswish"),
    ClassifierHead(4, 20, 10, "swish", conv_channels=48),
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.key)
def test_a_block_equals_one_of_torchs_modules(block: Block, training: bool) -> None:
    torch.manual_seed(0)
    module = StaticBlock(block)
    randomise(module)
    module = module.double().train(training)
    other = reference(module).double().train(training)
    x = torch.randn(3, *block.inputs[0].shape, dtype=torch.float64)
    torch.testing.assert_close(module(x), other(x), rtol=1e-9, atol=1e-9)


def test_a_fresh_block_is_initialised_as_torch_does() -> None:
    block = mbconv(8, 16, 24, kernel=5)
    torch.manual_seed(0)
    weights = StaticBlock(block).weights
    torch.manual_seed(0)
    others = [nn.Conv2d(16, 64, 1, bias=False), nn.Conv2d(64, 64, 5, groups=64, bias=False)]
    assert isinstance(weights, InvertedResidualWeights)
    assert weights.expand is not None
    assert torch.equal(weights.expand.weight, others[0].weight)
    assert torch.equal(weights.depthwise.weight, others[1].weight)
    assert {n.eps for n in weights.modules() if isinstance(n, nn.BatchNorm2d)} == {1e-5}


@pytest.mark.parametrize(("name", "blocks"), [("alphanet", 37), ("bignas", 26)])
def test_the_last_scale_of_every_inverted_residual_is_set_to_zero(name: str, blocks: int) -> None:
    space = load_space(name)
    network = Network(space.plan(space.largest()))
    zero_last_scales(network)
    norms = {name: norm for name, norm in network.named_modules() if isinstance(norm, nn.BatchNorm2d)}
    last = {name for name in norms if name.endswith("project_norm")}
    assert len(last) == blocks
    for name, norm in norms.items():
        assert norm.weight.unique().tolist() == [0.0 if name in last else 1.0], name
        assert norm.bias.unique().tolist() == [0.0], name


@pytest.mark.parametrize("training", [True, False])
def test_a_whole_network_equals_one_of_torchs_modules(training: bool) -> None:
    space = load_space("digits", 10)
    torch.manual_seed(0)
    network = Network(space.plan(space.largest()))
    randomise(network)
    network = network.double().train(training)
    x = torch.randn(4, 3, 12, 12, dtype=torch.float64)
    other = reference_network(network).train(training)
    torch.testing.assert_close(network(x), other(x), rtol=1e-9, atol=1e-9)


def test_training_leaves_running_statistics_alone() -> None:
    space = load_space("digits", 10)
    network = Network(space.plan(space.smallest()))
    randomise(network)
    before = {name: value.clone() for name, value in network.named_buffers()}
    network.train()(torch.randn(4, 3, 8, 8)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())


# -- shortcuts


def pooled(x: Array) -> Array:
    """Means of the 2x2 windows of `[side, side]`; a border of zeros, counted in the means, where the side is odd."""
    if x.shape[0] % 2:
        x = np.pad(x, 1)
    return np.array(
        [[x[i : i + 2, j : j + 2].mean() for j in range(0, x.shape[1] - 1, 2)] for i in range(0, x.shape[0] - 1, 2)]
    )


@pytest.mark.parametrize("side", [2, 5, 6, 7])
def test_a_strided_shortcut_averages_with_the_padding_counted(side: int) -> None:
    block = mbconv(side, 8, 8, stride=2)
    x = torch.randn(2, 8, side, side, dtype=torch.float64)
    got = shortcut_alone(block)(x).detach().numpy()
    expected = np.array([[pooled(channel) for channel in image] for image in x.numpy()])
    assert got.shape == (2, *block.output.shape)
    np.testing.assert_allclose(got, expected, atol=1e-12)


def test_odd_sides_by_hand() -> None:
    x = torch.ones(1, 8, 3, 3, dtype=torch.float64)
    got = shortcut_alone(mbconv(3, 8, 8, stride=2))(x)[0, 0]
    assert got.tolist() == [[0.25, 0.5], [0.5, 1.0]]


def test_the_shortcut_of_equal_shapes_is_the_input() -> None:
    x = torch.randn(2, 8, 4, 4, dtype=torch.float64)
    assert torch.equal(shortcut_alone(mbconv(4, 8, 8))(x), x)
    assert StaticBlock(mbconv(4, 8, 8)).weights.shortcut is None


def test_the_shortcut_projects_where_widths_differ() -> None:
    module = shortcut_alone(mbconv(5, 8, 12, stride=2))
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    weight = module.weights.shortcut.weight.detach().numpy()[:, :, 0, 0]
    means = np.array([[pooled(channel) for channel in image] for image in x.numpy()])
    np.testing.assert_allclose(module(x).detach().numpy(), np.einsum("oc,nchw->nohw", weight, means), atol=1e-12)
    assert module.weights.shortcut.bias is None


# -- squeeze-and-excitation


def test_squeeze_and_excitation_by_its_formula() -> None:
    block = mbconv(3, 16, 16, expand=1, activation="relu")
    module = StaticBlock(block).double()
    randomise(module)
    w = module.weights
    x = torch.randn(2, 16, 3, 3, dtype=torch.float64)

    def normalised(y: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        scaled = (y - norm.running_mean[:, None, None]) / torch.sqrt(norm.running_var[:, None, None] + 1e-5)
        return scaled * norm.weight[:, None, None] + norm.bias[:, None, None]

    with torch.no_grad():
        features = F.relu(normalised(F.conv2d(x, w.depthwise.weight, padding=1, groups=16), w.depthwise_norm)).numpy()
        first, second = w.reduce.weight.numpy()[:, :, 0, 0], w.restore.weight.numpy()[:, :, 0, 0]
        assert first.shape == (8, 16)  # make_divisible(16 // 4)
        hidden = np.maximum(features.mean((2, 3)) @ first.T + w.reduce.bias.numpy(), 0)
        gate = np.clip(hidden @ second.T + w.restore.bias.numpy() + 3, 0, 6) / 6
        scaled = torch.from_numpy(features * gate[:, :, None, None])
        expected = normalised(F.conv2d(scaled, w.project.weight), w.project_norm) + x
        torch.testing.assert_close(module.eval()(x), expected, rtol=1e-9, atol=1e-9)


def test_the_gate_is_a_hard_sigmoid() -> None:
    block = mbconv(1, 8, 8, expand=1, activation="relu")
    module = StaticBlock(block).double().eval()
    w = module.weights
    with torch.no_grad():
        for parameter in (w.depthwise.weight, w.reduce.weight, w.reduce.bias, w.restore.weight):
            parameter.zero_()
        w.depthwise.weight[:, 0, 1, 1] = 1.0
        w.project.weight.copy_(torch.eye(8)[:, :, None, None])
        w.project_norm.weight.fill_(1.0)
        w.restore.bias.copy_(torch.tensor([-9.0, -3.0, -1.5, 0.0, 1.5, 2.4, 3.0, 9.0]))
        got = (module(torch.ones(1, 8, 1, 1, dtype=torch.float64)) - 1).flatten()
    # Relative to a gate of 1, whose value the two normalisations shrink a little.
    np.testing.assert_allclose((got / got[-1]).numpy(), [0, 0, 0.25, 0.5, 0.75, 0.9, 1, 1], atol=1e-12)


# -- weights that serve several blocks


def test_smaller_blocks_take_leading_channels_and_the_centre_of_the_kernel() -> None:
    large, small = mbconv(6, 24, 32, kernel=7, expand=6), mbconv(6, 16, 24, kernel=3, expand=4)
    weights = InvertedResidualFamily.cover([small, large], Sharing())
    randomise(weights)
    with torch.no_grad():
        sliced = InvertedResidualFamily.slice(weights, small)
        assert weights.depthwise.weight.shape == (144, 1, 7, 7)
        assert torch.equal(sliced.depthwise.weight, weights.depthwise.weight[:64, :, 2:5, 2:5])
        assert weights.expand is not None
        assert sliced.expand is not None
        assert torch.equal(sliced.expand.weight, weights.expand.weight[:64, :16])
        assert torch.equal(sliced.project.weight, weights.project.weight[:24, :64])
        assert torch.equal(sliced.project.norm.mean, weights.project_norm.running_mean[:24])
        assert weights.reduce is not None
        assert sliced.squeeze is not None
        assert torch.equal(sliced.squeeze.reduce, weights.reduce.weight[:16, :64])
        assert torch.equal(sliced.squeeze.reduce_bias, weights.reduce.bias[:16])
        assert weights.shortcut is not None
        assert torch.equal(sliced.shortcut, weights.shortcut.weight[:24, :16])


def test_smaller_heads_take_leading_channels() -> None:
    large, small = (
        ClassifierHead(4, inside, 5, "swish", conv, hidden, hidden_norm=True)
        for inside, conv, hidden in ((24, 32, 40), (16, 24, 8))
    )
    weights = ClassifierHeadFamily.cover([small, large], Sharing())
    randomise(weights)
    assert {name: tuple(tensor.shape) for name, tensor in weights.named_parameters() if tensor.ndim > 1} == {
        "conv.weight": (32, 24, 1, 1),
        "hidden.weight": (40, 32, 1, 1),
        "classifier.weight": (5, 40),
    }
    narrow = StaticBlock(small)
    own, whole = narrow.state_dict(), weights.state_dict()
    narrow.load_state_dict(
        {
            name: whole[name.removeprefix("weights.")][tuple(slice(size) for size in tensor.shape)]
            for name, tensor in own.items()
        }
    )
    x = torch.randn(2, 16, 4, 4)
    for mode in (True, False):
        assert torch.equal(StaticBlock(small, weights).train(mode)(x), narrow.train(mode)(x))


def test_weights_hold_only_what_some_block_needs() -> None:
    weights = InvertedResidualFamily.cover([mbconv(6, 16, 16, expand=1, se=False)], Sharing())
    assert (weights.expand, weights.reduce, weights.restore, weights.shortcut) == (None, None, None, None)
    weights = InvertedResidualFamily.cover([mbconv(6, 16, 16, expand=1), mbconv(6, 16, 24, expand=2)], Sharing())
    assert weights.expand is not None
    assert weights.expand.out_channels == 32
    assert weights.shortcut is not None


# -- regularisation


def weights_of(block: Block) -> StaticBlock:
    torch.manual_seed(0)
    module = StaticBlock(block)
    randomise(module)
    return module


def dropped(block: Block, x: Tensor, drop: float, statistics: Statistics = BATCH) -> Tensor:
    module = weights_of(block)
    torch.manual_seed(1)
    with torch.no_grad():
        return module.family.forward(
            block, module.family.slice(module.weights, block), x, context=Context(statistics, drop)
        )


def test_drop_connect_leaves_the_shortcut_to_dropped_samples_and_scales_the_others() -> None:
    block = mbconv(4, 8, 8)
    x = torch.randn(64, 8, 4, 4)
    whole, branch = (dropped(block, x, drop, RUNNING) - x for drop in (0.0, 0.25))
    gone = branch.flatten(1).abs().amax(1) == 0
    assert 4 <= int(gone.sum()) <= 28
    torch.testing.assert_close(branch[~gone], whole[~gone] / 0.75)


@pytest.mark.parametrize("block", [mbconv(4, 8, 16), mbconv(4, 8, 8, stride=2)], ids=["widths", "stride"])
def test_drop_connect_spares_blocks_whose_shortcut_is_not_the_input(block: MBConv) -> None:
    x = torch.randn(32, 8, 4, 4)
    assert torch.equal(dropped(block, x, 0.9), dropped(block, x, 0.0))


def test_dropout_comes_right_before_the_classifier() -> None:
    block = PoolHead(2, 8, 512, 2, 10, "swish")
    x = torch.randn(4, 8, 2, 2)
    module = weights_of(block)
    with torch.no_grad():
        features = reference(module)[:-1].train()(x)
        torch.manual_seed(1)
        expected = module.weights.classifier(F.dropout(features, 0.5))
    torch.testing.assert_close(dropped(block, x, 0.5), expected)
    assert not torch.allclose(dropped(block, x, 0.0), expected)
