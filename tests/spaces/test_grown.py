"""Grown spaces: what may be cut by default, what is counted, and what is refused."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest

from nasdeploy.blocks.inverted_residual import InvertedResidual
from nasdeploy.blocks.universal_residual import UniversalInvertedResidual
from nasdeploy.core.cost_registry import macs
from nasdeploy.core.counting.chain import extremes
from nasdeploy.core.counting.rounded import Rounded
from nasdeploy.core.errors import UserError
from nasdeploy.core.settings import parse
from nasdeploy.recipe import parse_recipe
from nasdeploy.spaces.grown import GrownSettings, cuts_of
from tests.small_spaces import GROWN_CONTENT, every_code, grown
from tests.training.recipes import CONTENT


def changed(*path: Any, **values: Any) -> dict[str, Any]:
    """The small space with other values at a place."""
    content = deepcopy(GROWN_CONTENT)
    target: Any = content
    for part in path:
        target = target[part]
    target.update(values)
    return content


UNIVERSAL = {
    "kind": "universal-inverted-residual",
    "out_channels": 8,
    "mid_channels": 16,
    "stride": 2,
    "activation": "relu",
}


def refusal(content: dict[str, Any]) -> str:
    with pytest.raises(UserError) as caught:
        parse_recipe({**CONTENT, "space": content}, "mine.yaml").load_space(3)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (changed("stages", 1, depth=[1, 4]), "stages.1.depth: the largest is 4; the original has 3"),
        (changed("stages", 1, depth=[1, 2]), "stages.1.depth: the largest is 2; the original has 3"),
        (changed("stages", 1, kernel_size=[3, 7]), "stages.1.kernel_size: the largest is 7; the original has 5"),
        (changed("stages", 1, kernel_size=[3]), "stages.1.kernel_size: the largest is 3; the original has 5"),
        (changed("stages", 1, kernel_size=[4, 5]), "space.stages.1.kernel_size is [4, 5]: kernel sizes are odd"),
        (changed("stages", 1, middle=[50, 75]), "stages.1.middle: the largest is 75; the original has 100"),
        (changed("stages", 1, middle=[100, 50]), "space.stages.1.middle is [100, 50]: list the values in ascending"),
        (changed("stages", 0, middle=[50, 100]), "stages.0.middle: no block of the stage becomes smaller by it"),
        (changed("stages", 0, kernel_size=[1, 3], blocks=[]), "space.stages.0.blocks is []"),
        (
            changed("stages", 1, depth=[1, 3], blocks=[*GROWN_CONTENT["stages"][1]["blocks"]][::-1]),
            "stages.1.depth: block 3 changes the shape and cannot be left out; the smallest depth is 3",
        ),
        (changed(resolution=[3, 12]), "resolution 3 is smaller than the product of the strides, 4"),
        (changed("stages", 0, "blocks", 0, kind="dense"), "space.stages.0.blocks.0.kind is \"dense\": unknown kind of"),
        (changed("stages", 0, "blocks", 0, kind="classifier"), "unknown kind of block; known: "),
        (changed("head", kind="stem"), "space.head.kind is \"stem\": unknown kind of head"),
        (changed("stages", 0, "blocks", 0, stride=0), "space.stages.0.blocks.0.stride is 0"),
        (changed("stages", 0, "blocks", 0, kernel_size=4), "stages.0.blocks.0.kernel_size is 4: kernel sizes are odd"),
        (changed("stages", 0, blocks=[UNIVERSAL]), ": a stride of 2 needs a depthwise convolution; the block has none"),
        (changed("stages", 0, blocks=[{**UNIVERSAL, "start_kernel": 4}]), "start_kernel is 4: kernel sizes are odd"),
        (changed("stages", 0, "blocks", 0, bn_eps=-1.0), "space.stages.0.blocks.0.bn_eps is -1.0"),
        (changed("stages", 0, "blocks", 0, repeat=0), "space.stages.0.blocks.0.repeat is 0"),
        (changed("stages", 2, "blocks", 0, repeat=257), "space.stages.2.blocks.0.repeat is 257"),
        (changed("stages", 0, "blocks", 0, activation="gelu"), "space.stages.0.blocks.0.activation is \"gelu\""),
        (
            changed("stages", 0, "blocks", 0, outchannels=8),
            "unknown key 'space.stages.0.blocks.0.outchannels'; did you mean 'out_channels'?",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_original_is_one_line_that_names_the_place(content: dict[str, Any], said: str) -> None:
    assert said in refusal(content)


def test_a_missing_field_is_named() -> None:
    content = deepcopy(GROWN_CONTENT)
    del content["stages"][0]["blocks"][0]["mid_channels"]
    assert "space.stages.0.blocks.0.mid_channels is missing" in refusal(content)


def test_a_long_stage_is_refused_before_it_is_built() -> None:
    row = GROWN_CONTENT["stages"][0]["blocks"][0] | {"repeat": 256}
    assert "a stage has at most 256 blocks, not 512" in refusal(changed("stages", 0, blocks=[row, row]))


def test_stages_without_a_choice_have_one_value_so_that_architectures_are_lists() -> None:
    assert grown().largest().to_json() == {
        "resolution": 12,
        "depth": [1, 3, 2],
        "kernel_size": [3, 5, 3],
        "middle": [100, 100, 100],
    }


def test_blocks_are_cut_as_the_choices_say() -> None:
    space = grown()
    plan = space.plan(space.arch({**space.largest(), "depth.1": 2, "kernel_size.1": 3, "middle.1": 50}))
    blocks = {step.name: step.block for step in plan if isinstance(step.block, InvertedResidual)}
    found = {name: (block.kernel_size, block.mid_channels, block.se_channels) for name, block in blocks.items()}
    assert found == {
        "stage1_block1": (3, 8, 0),
        "stage2_block1": (3, 16, 0),
        "stage2_block2": (3, 24, 4),
        "stage3_block1": (3, 24, 0),
        "stage3_block2": (3, 24, 0),
    }


def test_counts_and_costs_are_those_of_all_architectures() -> None:
    space = grown()
    codes = every_code(space)
    archs = set(space.decode(codes))
    # Resolution, the second stage's depth, kernel and middle, the third one's depth.
    assert len(codes) == len(archs) == space.size == 2 * (3 * 2 * 2) * 2
    found = np.array([space.plan(arch).macs for arch in space.decode(codes)])
    assert len({tuple(space.plan(arch).keys) for arch in archs}) == len(archs)
    cheapest, dearest = extremes(space, macs)
    assert (cheapest.cost, dearest.cost) == (found.min(), found.max())
    assert dearest.arch == space.named["original"] == space.largest()
    low, high = np.quantile(found, [0.2, 0.7])
    assert Rounded(space, macs).within(low, high).count == ((found >= low) & (found <= high)).sum()
    distinct = {step.block.key for arch in archs for step in space.plan(arch)}
    assert distinct == set(space.distinct_blocks())


# -- what may be cut by default


def rows(*blocks: tuple[int, int, int, int]) -> list[dict[str, Any]]:
    """Blocks of given outputs, middle channels, kernel and stride; those of 32 middle channels have no expansion."""
    return [
        {
            "kind": "inverted-residual",
            "out_channels": out,
            "mid_channels": mid,
            "kernel_size": kernel,
            "stride": stride,
            "se_channels": 8,
            "activation": "swish",
            "bn_eps": 1e-3,
        }
        for out, mid, kernel, stride in blocks
    ]


EFFICIENTNET_B0 = [
    rows((16, 32, 3, 1)),
    rows((24, 96, 3, 2), (24, 144, 3, 1)),
    rows((40, 144, 5, 2), (40, 240, 5, 1)),
    rows((80, 240, 3, 2), (80, 480, 3, 1), (80, 480, 3, 1)),
    rows((112, 480, 5, 1), (112, 672, 5, 1), (112, 672, 5, 1)),
    rows((192, 672, 5, 2), *[(192, 1152, 5, 1)] * 3),
    rows((320, 1152, 3, 1)),
]
STEM = GROWN_CONTENT["stem"] | {"out_channels": 32}
HEAD = GROWN_CONTENT["head"] | {"conv_channels": 1280}


def test_the_default_cuts_of_an_efficientnet() -> None:
    found = cuts_of(STEM, EFFICIENTNET_B0, HEAD, [112, 96, 80, 64, 96])
    assert found["resolution"] == [64, 80, 96, 112]
    choices = [{name: value for name, value in stage.items() if name != "blocks"} for stage in found["stages"]]
    middle, kernels = [50, 75, 100], [3, 5]
    assert choices == [
        {},
        {"depth": [1, 2], "middle": middle},
        {"depth": [1, 2], "kernel_size": kernels, "middle": middle},
        {"depth": [1, 2, 3], "middle": middle},
        {"depth": [1, 2, 3], "kernel_size": kernels, "middle": middle},
        {"depth": [1, 2, 3, 4], "kernel_size": kernels, "middle": middle},
        {"middle": middle},
    ]
    assert [row.get("repeat") for row in found["stages"][5]["blocks"]] == [None, 3]
    space = parse(GrownSettings, {"kind": "grown", "name": "b0", **found}, "b0").build(10)
    assert len(space.distinct_blocks()) == 54 * 4 - 10 < 600
    largest = [step.block for step in space.plan(space.largest())][1:-1]
    assert [block.mid_channels for block in largest if isinstance(block, InvertedResidual)] == [
        row["mid_channels"] for stage in EFFICIENTNET_B0 for row in stage
    ]
    assert space.plan(space.smallest()).macs < 0.15 * space.plan(space.largest()).macs


def test_a_block_that_changes_the_shape_is_not_left_out() -> None:
    stage = rows((24, 96, 3, 2), (24, 144, 3, 1), (40, 144, 3, 1), (40, 240, 3, 1))
    (found,) = cuts_of(STEM, [stage], HEAD, [32])["stages"]
    assert found["depth"] == [3, 4]


def test_a_long_stage_has_some_of_its_depths() -> None:
    (found,) = cuts_of(STEM, [rows((24, 96, 3, 2), *[(24, 144, 3, 1)] * 22)], HEAD, [32])["stages"]
    assert found["depth"] == [1, 4, 7, 10, 14, 17, 20, 23]


def test_a_block_with_two_kernels_has_those_of_both_made_smaller() -> None:
    row = {"kind": "universal-inverted-residual", "out_channels": 24, "mid_channels": 64, "stride": 1}
    kernels = row | {"activation": "relu", "start_kernel": 3, "middle_kernel": 5}
    content = cuts_of(STEM, [[kernels]], HEAD, [32])
    assert content["stages"][0]["kernel_size"] == [3, 5]
    space = parse(GrownSettings, {"kind": "grown", "name": "v4", **content}, "v4").build(10)
    block = space.plan(space.smallest()).steps[1].block
    assert isinstance(block, UniversalInvertedResidual)
    assert (block.start_kernel, block.middle_kernel, block.mid_channels) == (3, 3, 32)
