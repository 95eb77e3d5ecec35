"""The coarse grid over a whole network's choices."""

import numpy as np
import pytest

from nasdeploy.core.randomness import generator
from nasdeploy.searching.strategies.evolution import grid
from nasdeploy.spaces import load_space
from nasdeploy.spaces.fixed import FixedSpace
from tests.searching.landscape import SPACE
from tests.small_spaces import one_stage


def test_choices_of_a_kind_go_together() -> None:
    codes = grid(SPACE, 27, generator(0, "test"))
    # Three levels of resolution, of all widths and of all kernels.
    assert {tuple(row) for row in codes.tolist()} == {
        (resolution, *[width] * 4, *[kernel] * 4)
        for resolution in range(3)
        for width in range(3)
        for kernel in range(3)
    }


def test_choices_without_a_choice_take_no_levels_from_the_others() -> None:
    """BigNAS, whose expansion is 6 wherever there is one: four levels of all else, of which kernels have two."""
    codes = grid(load_space("bignas"), 512, generator(0, "test"))
    assert len(codes) == 4 * 4 * 4 * 2
    alone = FixedSpace(one_stage(), one_stage().largest())
    assert grid(alone, 512, generator(0, "test")).tolist() == [[0] * len(alone.choices)]


@pytest.mark.parametrize("name", ["alphanet", "digits"])
@pytest.mark.parametrize("most", [1, 7, 100, 512])
def test_the_grid_of_a_real_space_has_few_points_and_both_ends(name: str, most: int) -> None:
    space = load_space(name, 10)
    codes = grid(space, most, generator(0, "test"))
    assert 1 <= len(codes) <= most
    assert len(np.unique(codes, axis=0)) == len(codes)
    if most == 512:
        assert {space.smallest(), space.largest()} <= set(space.decode(codes))
