"""Once-for-all's spaces against published figures and the reference's rules, written down here once more."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from nasdeploy.blocks.heads import ClassifierHead, Stem
from nasdeploy.blocks.inverted_residual import InvertedResidual, KernelTransform
from nasdeploy.core.errors import UserError
from nasdeploy.core.space import Sharing
from nasdeploy.recipe import parse_recipe
from nasdeploy.spaces import load_space
from nasdeploy.supernet.supernet import Supernet
from tests.blocks.test_blocks import counted, on_meta
from tests.small_spaces import OFA_CONTENT, every_code, ofa
from tests.training.recipes import CONTENT

NARROW, WIDE = load_space("ofa-mbv3"), load_space("ofa-mbv3-w1.2")
SPACES = {space.name: space for space in (NARROW, WIDE)}
WIDTHS = {"ofa-mbv3": (16, 16, 24, 40, 80, 112, 160), "ofa-mbv3-w1.2": (24, 24, 32, 48, 96, 136, 192)}
"""Of the stem, the first block and the stages."""
HEADS = {"ofa-mbv3": (960, 1280), "ofa-mbv3-w1.2": (1152, 1536)}
STRIDES = (2, 2, 2, 1, 2)
ACTIVATIONS = ("relu", "relu", "hswish", "hswish", "hswish")
SQUEEZED = {
    "ofa-mbv3": {40: (32, 40, 64), 24: (24, 24, 40), 112: (88, 112, 168), 80: (64, 80, 120), 160: (120, 160, 240)},
    "ofa-mbv3-w1.2": {
        32: (24, 32, 48),
        48: (40, 48, 72),
        96: (72, 96, 144),
        136: (104, 136, 208),
        192: (144, 192, 288),
    },
}
"""The hidden units of squeeze-and-excitation by a block's input width, for expansions 3, 4 and 6."""


@pytest.mark.parametrize(
    ("space", "end", "macs", "params"),
    [
        (NARROW, "largest", 566_170_656, 7_664_760),
        (NARROW, "smallest", 41_476_224, 3_410_792),
        (WIDE, "largest", 843_101_040, 10_701_632),
    ],
)
def test_published_macs_and_parameters(space, end, macs, params) -> None:
    plan = space.plan(getattr(space, end)())
    assert (plan.macs, plan.params) == (macs, params)


@pytest.mark.parametrize("name", SPACES)
def test_macs_and_parameters_are_those_of_the_network(name) -> None:
    plan = SPACES[name].plan(SPACES[name].sample(np.random.default_rng(0)))
    assert counted(on_meta(plan), plan) == (plan.macs, plan.params)


@pytest.mark.parametrize("name", SPACES)
def test_choices_are_the_published_ones(name) -> None:
    expected = {"resolution": tuple(range(128, 225, 4))}
    expected |= {f"depth.{stage}": (2, 3, 4) for stage in range(5)}
    expected |= {f"kernel_size.{block}": (3, 5, 7) for block in range(20)}
    expected |= {f"expand_ratio.{block}": (3, 4, 6) for block in range(20)}
    assert SPACES[name].values_of == expected


@pytest.mark.parametrize("name", SPACES)
def test_there_are_as_many_networks_as_published(name) -> None:
    a_stage = sum(9**depth for depth in (2, 3, 4))
    assert a_stage == 7371
    assert SPACES[name].networks == 25 * a_stage**5


def test_networks_are_counted_once() -> None:
    space = ofa()
    assert space.networks == len(np.unique(space.canonical(every_code(space)), axis=0)) == 2 * (9 + 9**2) * 3
    assert space.networks < space.size


def expected_blocks(name: str, resolution: int) -> list[Any]:
    """The blocks of the largest network."""
    (stem, first, *widths), (conv, hidden), side = WIDTHS[name], HEADS[name], resolution // 2
    blocks: list[Any] = [Stem(resolution, stem, 3, 2, "hswish", 3)]
    blocks.append(InvertedResidual(side, stem, first, 3, stem, 1, 0, "relu"))
    before = first
    for stage, (width, stride, activation) in enumerate(zip(widths, STRIDES, ACTIVATIONS, strict=True), start=1):
        for number in range(4):
            inside, step = (before, stride) if number == 0 else (width, 1)
            squeezed = SQUEEZED[name][inside][2] if stage in (2, 4, 5) else 0
            blocks.append(InvertedResidual(side, inside, width, 7, 6 * inside, step, squeezed, activation))
            side = (side + step - 1) // step
        before = width
    blocks.append(ClassifierHead(side, before, 1000, "hswish", conv, hidden, hidden_bias=False))
    return blocks


@pytest.mark.parametrize("resolution", [224, 132])
@pytest.mark.parametrize("name", SPACES)
def test_the_largest_network_is_the_published_one(name, resolution) -> None:
    space = SPACES[name]
    arch = space.arch({**space.largest(), "resolution": resolution})
    blocks = [step.block for step in space.plan(arch)]
    assert blocks == expected_blocks(name, resolution)
    # The first block and all of a stage but its first one.
    assert [block.residual for block in blocks[1:-1]] == [True, *[False, True, True, True] * 5]


@pytest.mark.parametrize("name", SPACES)
def test_middles_and_squeezed_channels_are_those_of_the_expansion(name) -> None:
    blocks = {block for slot in SPACES[name].slots[2:-1] for block in SPACES[name].blocks_of(slot) if block is not None}
    found = {(block.in_channels, block.mid_channels, block.se_channels) for block in blocks}
    # Stages 1 and 3 have none; they take the widths of the first block and of the first three stages.
    plain = {(inside, e * inside, 0) for inside in WIDTHS[name][1:5] for e in (3, 4, 6)}
    hidden = [(inside, e, row[place]) for inside, row in SQUEEZED[name].items() for place, e in enumerate((3, 4, 6))]
    squeezing = {(inside, e * inside, channels) for inside, e, channels in hidden}
    assert found == plain | squeezing


@pytest.mark.parametrize("name", SPACES)
def test_a_supernet_has_the_published_number_of_weights(name) -> None:
    with torch.device("meta"):
        supernet = Supernet(SPACES[name])
    assert len(supernet.state_dict()) == 475
    parameters = dict(supernet.named_parameters())
    assert sum(p.numel() for p in parameters.values()) == {"ofa-mbv3": 7_678_880, "ofa-mbv3-w1.2": 10_715_752}[name]
    assert sum(p.numel() for key, p in parameters.items() if ".transforms." in key) == 14_120


def test_kernels_are_transformed_where_there_are_several() -> None:
    rules = {slot.name: slot.sharing for slot in ofa().slots}
    transformed = ("stage2_block1", "stage2_block2")
    others = ("stem", "stage1_block1", "stage3_block1", "head")
    assert rules == {name: KernelTransform() for name in transformed} | {name: Sharing() for name in others}


def test_a_smaller_depth_keeps_a_stages_first_blocks() -> None:
    space = ofa()
    names = [step.name for step in space.plan(space.arch({**space.largest(), "depth.0": 1}))]
    assert names == ["stem", "stage1_block1", "stage2_block1", "stage3_block1", "head"]


def test_a_space_for_small_images() -> None:
    space = ofa(10)
    blocks = {step.name: step.block for step in space.plan(space.largest())}
    assert blocks == {
        "stem": Stem(12, 8, 3, 1, "hswish", 3),
        "stage1_block1": InvertedResidual(12, 8, 8, 3, 8, 1, 0, "relu"),
        "stage2_block1": InvertedResidual(12, 8, 16, 7, 48, 2, 16, "hswish"),
        "stage2_block2": InvertedResidual(6, 16, 16, 7, 96, 1, 24, "hswish"),
        "stage3_block1": InvertedResidual(6, 16, 24, 3, 96, 1, 0, "relu"),
        "head": ClassifierHead(6, 24, 10, "hswish", 32, 24, hidden_bias=False),
    }
    assert [space.stage_of(slot) for slot in space.slots] == [None, 0, 1, 1, 2, None]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"resolution": [1, 12]}, "resolution 1 is smaller than the product of the strides, 2"),
        ({"resolution": [12, 9]}, "list the values in ascending order, each once"),
        ({"first": {"width": 8, "widht": 8}}, "unknown key 'space.first.widht'; did you mean 'width'?"),
        ({"stages": [{**OFA_CONTENT["stages"][0], "kernel": [3, 4]}]}, "kernel sizes are odd"),
        ({"stages": []}, "space.stages"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(change, said) -> None:
    content = json.loads(json.dumps({**CONTENT, "space": {**OFA_CONTENT, **change}}))
    with pytest.raises(UserError) as caught:
        parse_recipe(content, "mine.yaml")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
