"""Costs of blocks against published figures and against what torch counts on the built networks."""

from dataclasses import asdict, fields, replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nasdeploy.blocks.feature_maps import make_divisible, strided
from nasdeploy.blocks.heads import PoolHead, Stem
from nasdeploy.blocks.inverted_residual import InvertedResidual, MBConv
from nasdeploy.blocks.residual import BasicBlock, Bottleneck, PoolingStem
from nasdeploy.core.arch import Arch
from nasdeploy.core.plan import Block, Plan, TensorType
from nasdeploy.nn.network import Network, StaticBlock
from nasdeploy.spaces import load_space

ALPHANET = load_space("alphanet")
MILLION_MACS = {"a0": 203, "a1": 279, "a2": 317, "a3": 357, "a4": 444, "a5-small": 491, "a5-base": 596, "a6": 709}
"""As published with AlphaNet."""


def counted(module: torch.nn.Module, block: Block | Plan) -> tuple[int, int]:
    """MACs by torch's own counter (one multiply-accumulate is two FLOPs), and parameters."""
    shape = (block.only.inputs[0][1] if isinstance(block, Plan) else block.inputs[0]).shape
    with FlopCounterMode(display=False) as counter:
        module.eval()(torch.empty(1, *shape, device="meta"))
    flops = counter.get_total_flops()
    assert flops % 2 == 0
    return flops // 2, sum(p.numel() for p in module.parameters())


def on_meta(plan: Plan) -> Network:
    with torch.device("meta"):
        return Network(plan)


@pytest.mark.parametrize(
    ("value", "rounded"),
    # By hand: nearest multiple of 8 with halves up, at least 8, and never below 0.9 of the value.
    [
        (1, 8),
        (8, 8),
        (11, 16),
        (12, 16),
        (18, 24),
        (19, 24),
        (20, 24),
        (27, 32),
        (28, 32),
        (36, 40),
        (43, 40),
        (44, 48),
    ],
)
def test_make_divisible(value: int, rounded: int) -> None:
    assert make_divisible(value) == rounded


def test_make_divisible_is_the_nearest_multiple_or_the_next() -> None:
    for value in np.arange(0.5, 600, 0.5):
        rounded = make_divisible(value)
        nearest = max(8, 8 * int(np.floor(value / 8 + 0.5)))
        assert rounded == (nearest if nearest >= 0.9 * value else nearest + 8)
        assert rounded >= 0.9 * value
    assert make_divisible(100, 32) == 96


@pytest.mark.parametrize("side", range(1, 12))
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_strided_is_the_side_that_a_convolution_gives(side: int, stride: int, kernel: int) -> None:
    convolution = torch.nn.Conv2d(1, 1, kernel, stride, kernel // 2, device="meta")
    assert convolution(torch.empty(1, 1, side, side, device="meta")).shape[-1] == strided(side, stride)


def test_a_block_counted_by_hand() -> None:
    block = MBConv(7, 16, 24, kernel_size=3, expand_ratio=4, stride=2, se=True, activation="swish")
    assert (block.mid_channels, block.se_channels, block.inputs, block.output) == (
        64,
        16,
        (TensorType((16, 7, 7)),),
        TensorType((24, 4, 4)),
    )
    expand, depthwise, squeeze, project, shortcut = 49 * 16 * 64, 16 * 9 * 64, 64 * 16 * 2, 16 * 64 * 24, 16 * 16 * 24
    assert block.macs == expand + depthwise + squeeze + project + shortcut
    weights, biases, norms = 16 * 64 + 9 * 64 + 2 * 64 * 16 + 64 * 24 + 16 * 24, 16 + 64, 2 * (64 + 64 + 24)
    assert block.params == weights + biases + norms


@pytest.mark.parametrize("name", MILLION_MACS)
def test_published_macs(name: str) -> None:
    assert abs(ALPHANET.plan(ALPHANET.named[name]).macs / 1e6 - MILLION_MACS[name]) < 1.3


def test_all_published_networks_are_there() -> None:
    assert set(ALPHANET.named) == set(MILLION_MACS)


@pytest.mark.parametrize("arch", [*ALPHANET.named.values(), ALPHANET.largest()], ids=lambda arch: arch.digest)
def test_macs_and_parameters_are_those_of_the_network(arch: Arch) -> None:
    plan = ALPHANET.plan(arch)
    assert counted(on_meta(plan), plan) == (plan.macs, plan.params)


def test_macs_and_parameters_of_every_kind_of_block() -> None:
    blocks = list(ALPHANET.distinct_blocks().values())[::23]
    blocks += [
        Stem(9, 16, 5, 1, "relu", 3),
        Stem(8, 16, 3, 2, "hswish", in_channels=1),
        MBConv(5, 12, 12, kernel_size=7, expand_ratio=1, stride=2, se=True, activation="relu"),
        MBConv(5, 12, 20, kernel_size=3, expand_ratio=3, stride=1, se=False, activation="hswish"),
        InvertedResidual(9, 16, 24, 5, 40, 2, 12, "swish", "none", "sigmoid", "swish", 1e-3, "same"),
        InvertedResidual(8, 16, 16, 3, 16, 1, 0, "hswish"),
        InvertedResidual(8, 16, 24, 3, 50, 2, 9, "relu", "average", padding="same"),
        PoolHead(3, 20, 36, expand_ratio=2, classes=3, activation="relu"),
        PoolingStem(17, 3, 16, 7, "relu"),
        PoolingStem(16, 3, 16, 3, "relu", 8, 12, pooling="convolution"),
        BasicBlock(9, 16, 24, 32, 2, "relu", "average", se_channels=4),
        BasicBlock(8, 16, 16, 24, 1, "relu"),
        Bottleneck(9, 16, 32, 24, 2, "relu", se_channels=8, group_width=8),
        Bottleneck(8, 32, 32, 16, 1, "swish"),
    ]
    for block in blocks:
        with torch.device("meta"):
            module = StaticBlock(block)
            output = module(torch.empty(2, *block.inputs[0].shape))
        assert output.shape == (2, *block.output.shape), block.key
        assert counted(module, block) == (block.macs, block.params), block.key


def test_the_whole_alphanet_space_is_896_blocks() -> None:
    blocks = ALPHANET.distinct_blocks()
    assert len(blocks) == len(set(blocks.values())) == 896


KEYS = {
    "Stem(side=9,out_channels=16,kernel_size=3,stride=2,activation=swish,in_channels=3)": Stem(9, 16, 3, 2, "swish", 3),
    "MBConv(side=24,in_channels=32,out_channels=40,kernel_size=5,expand_ratio=6,stride=2,se=1,activation=relu)": MBConv(
        24, 32, 40, kernel_size=5, expand_ratio=6, stride=2, se=True, activation="relu"
    ),
    "MBConv(side=7,in_channels=4,out_channels=4,kernel_size=3,expand_ratio=1,stride=1,se=0,activation=relu)": MBConv(
        7, 4, 4, kernel_size=3, expand_ratio=1, stride=1, se=False, activation="relu"
    ),
    "PoolHead(side=7,in_channels=216,out_channels=1984,expand_ratio=6,classes=10,activation=hswish)": PoolHead(
        7, 216, 1984, expand_ratio=6, classes=10, activation="hswish"
    ),
}
DIGESTS = {
    "alphanet": "cf23de1c44e7",
    "bignas": "5bb0975cc6f2",
    "cifar10": "f9e446bdf53c",
    "digits": "f9aad47bc356",
    "ofa-mbv3": "074e606f9018",
    "ofa-mbv3-w1.2": "b3088cc220b1",
}


@pytest.mark.parametrize("key", KEYS)
def test_keys_are_those_of_the_tables_in_existence(key: str) -> None:
    assert KEYS[key].key == key


@pytest.mark.parametrize("space", DIGESTS)
def test_digests_are_those_of_the_runs_in_existence(space: str) -> None:
    assert load_space(space, 10).digest == DIGESTS[space]


def test_a_key_leaves_out_what_has_its_default() -> None:
    plain = InvertedResidual(24, 32, 40, 5, mid_channels=64, stride=2, se_channels=0, activation="relu")
    named = (
        "side=24,in_channels=32,out_channels=40,kernel_size=5,mid_channels=64,stride=2,se_channels=0,activation=relu"
    )
    assert plain.key == f"InvertedResidual({named})"
    assert replace(plain, bn_eps=1e-3, padding="same").key == f"InvertedResidual({named},bn_eps=0.001,padding=same)"
    assert replace(plain, shortcut="identity") == plain


def test_alphanets_block_is_one_with_its_own_name() -> None:
    block = MBConv(24, 32, 40, kernel_size=5, expand_ratio=6, stride=2, se=True, activation="swish")
    same = InvertedResidual(24, 32, 40, 5, 192, 2, 48, "swish", shortcut="average")
    assert {field.name: getattr(block, field.name) for field in fields(same)} == asdict(same)
    assert (block.macs, block.params, block.live) == (same.macs, same.params, same.live)
    assert (block.inputs, block.output) == (same.inputs, same.output)
    assert block.key != same.key
    assert len({block, MBConv(24, 32, 40, 5, 6, 2, True, "swish"), same}) == 2


def test_what_is_cut_out_of_alphanets_block_is_an_inverted_residual() -> None:
    block = MBConv(24, 32, 40, kernel_size=5, expand_ratio=6, stride=2, se=True, activation="swish")
    assert block.cut(3, 50) == InvertedResidual(24, 32, 40, 3, 96, 2, 48, "swish", "average", expansion="always")
    narrow = MBConv(24, 32, 40, kernel_size=5, expand_ratio=1, stride=2, se=False, activation="swish")
    assert narrow.cut(3, 50) == InvertedResidual(24, 32, 40, 3, 32, 2, 0, "swish", "average")
