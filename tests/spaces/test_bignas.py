"""BigNAS's space against the published table, written down here once more."""

from math import prod

import pytest
import torch
from pydantic import ValidationError

from nasdeploy.blocks.heads import ClassifierHead
from nasdeploy.blocks.inverted_residual import MBConv
from nasdeploy.core.arch import Arch
from nasdeploy.core.cost_registry import macs
from nasdeploy.core.counting.chain import extremes
from nasdeploy.nn.network import Network
from nasdeploy.spaces import load_settings, load_space
from nasdeploy.spaces.mobilenet import HeadRow
from tests.blocks.test_blocks import counted, on_meta
from tests.nn.reference import randomise, reference_network

SPACE = load_space("bignas")
WIDTHS = [(32, 40), (16, 24), (24, 32), (40, 48), (80, 88), (112, 120, 128), (192, 200, 208, 216), (320, 336, 352)]
DEPTHS = [(1, 2), (2, 3), (2, 3), (2, 4), (2, 6), (2, 6), (1, 2)]
STRIDES = [1, 2, 2, 2, 1, 2, 1]


def test_choices_are_the_published_ones() -> None:
    expected = {"resolution": (192, 224, 288, 320)}
    expected |= {f"width.{place}": values for place, values in enumerate([*WIDTHS, (1280, 1408)])}
    expected |= {f"depth.{stage}": tuple(range(low, high + 1)) for stage, (low, high) in enumerate(DEPTHS)}
    expected |= {f"kernel_size.{stage}": (3,) if stage < 2 else (3, 5) for stage in range(7)}
    expected |= {f"expand_ratio.{stage}": (6 if stage else 1,) for stage in range(7)}
    assert SPACE.values_of == expected
    assert SPACE.size == prod(len(values) for values in expected.values())


def test_every_block_has_squeeze_and_excitation_and_the_stages_stride() -> None:
    blocks = {step.name: step.block for step in SPACE.plan(SPACE.largest())}
    assert len(blocks) == 2 + sum(high for _, high in DEPTHS)
    for name, block in blocks.items():
        if isinstance(block, MBConv):
            stage, number = name.removeprefix("stage").split("_block")
            assert block.se
            assert block.stride == (STRIDES[int(stage) - 1] if number == "1" else 1)


@pytest.mark.parametrize(("arch", "width"), [(SPACE.smallest(), 1280), (SPACE.largest(), 1408)])
def test_the_head_is_a_convolution_pooling_and_the_classifier(arch: Arch, width: int) -> None:
    inside = arch["width.7"]
    head = SPACE.plan(arch).steps[-1].block
    assert head == ClassifierHead(arch["resolution"] // 32, inside, 1000, "swish", conv_channels=width)
    assert head.params == width * inside + 2 * width + 1000 * width + 1000


@pytest.mark.parametrize("arch", [SPACE.smallest(), SPACE.largest()], ids=["smallest", "largest"])
def test_macs_and_parameters_are_those_of_the_network(arch: Arch) -> None:
    plan = SPACE.plan(arch)
    assert counted(on_meta(plan), plan) == (plan.macs, plan.params)


@pytest.mark.parametrize("training", [True, False])
def test_a_whole_network_equals_one_of_torchs_modules(training: bool) -> None:
    small = load_settings("bignas").model_copy(update={"resolution": (48,)}).build(10)
    torch.manual_seed(0)
    network = Network(small.plan(small.smallest()))
    randomise(network)
    network = network.double().train(training)
    x = torch.randn(3, 3, 48, 48, dtype=torch.float64)
    other = reference_network(network).train(training)
    torch.testing.assert_close(network(x), other(x), rtol=1e-9, atol=1e-9)


def test_the_published_sizes_lie_inside() -> None:
    cheapest, dearest = extremes(SPACE, macs)
    assert cheapest.cost < 242e6
    assert dearest.cost > 1040e6


def test_a_head_without_a_layer_behind_the_pooling_has_no_expansion() -> None:
    assert HeadRow(width=(8, 16), kind="convolution", expand=6).expand == 6
    with pytest.raises(ValidationError, match="expand has an effect only with kind: pool, and kind is convolution"):
        HeadRow(width=(8, 16), kind="convolution", expand=4)
