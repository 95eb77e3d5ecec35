"""Cheapest and dearest architecture against enumeration."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasdeploy.core.cost_registry import macs, params
from nasdeploy.core.counting.chain import extremes
from nasdeploy.spaces import load_space
from tests.small_spaces import ToySpace

SPACE = ToySpace()


def enumerated(cost):
    """Cost of every combination of values, summed slot by slot."""
    names = [choice.name for choice in SPACE.choices]
    for values in product(*(choice.values for choice in SPACE.choices)):
        arch = dict(zip(names, values, strict=True))
        blocks = [(slot, SPACE.block(slot, {name: arch[name] for name in slot.reads})) for slot in SPACE.slots]
        yield sum(cost(slot, block) for slot, block in blocks if block is not None)


@pytest.mark.parametrize("cost", [macs, params])
def test_equal_enumeration(cost):
    costs = list(enumerated(cost))
    cheapest, dearest = extremes(SPACE, cost)
    assert cheapest.cost == min(costs)
    assert dearest.cost == max(costs)


@given(st.integers(0, 2**32 - 1))
def test_equal_enumeration_for_arbitrary_costs(seed):
    rng = np.random.default_rng(seed)
    drawn = {(slot.name, block.key): rng.normal() for slot in SPACE.slots for block in SPACE.blocks_of(slot) if block}
    costs = list(enumerated(lambda slot, block: drawn[slot.name, block.key]))
    cheapest, dearest = extremes(SPACE, lambda slot, block: drawn[slot.name, block.key])
    assert cheapest.cost == pytest.approx(min(costs), abs=1e-12)
    assert dearest.cost == pytest.approx(max(costs), abs=1e-12)


@pytest.mark.parametrize("name", ["alphanet", "digits"])
def test_architectures_have_the_stated_cost(name):
    space = load_space(name, 10)
    for extreme in extremes(space, macs):
        assert space.plan(extreme.arch).macs == extreme.cost
    assert [extreme.arch for extreme in extremes(space, macs)] == [space.smallest(), space.largest()]
