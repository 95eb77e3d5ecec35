"""BigNAS's space against the published table, written down here once more."""

from math import prod

import pytest

from nasdeploy.blocks.heads import PoolHead
from nasdeploy.blocks.inverted_residual import MBConv
from nasdeploy.core.cost_registry import macs
from nasdeploy.core.counting.chain import extremes
from nasdeploy.spaces import load_space

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
def test_the_head_is_as_wide_before_pooling_as_after_it(arch, width) -> None:
    head = SPACE.plan(arch).steps[-1].block
    assert isinstance(head, PoolHead)
    assert (head.mid_channels, head.out_channels) == (width, width)


def test_the_published_sizes_lie_inside() -> None:
    cheapest, dearest = extremes(SPACE, macs)
    assert cheapest.cost < 242e6
    assert dearest.cost > 1040e6
