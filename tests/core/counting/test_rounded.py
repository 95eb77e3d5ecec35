"""Counts and draws on rounded costs, against enumeration."""

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from nasdeploy.core.arch import Choice
from nasdeploy.core.cost_registry import macs, params
from nasdeploy.core.costs import Costs
from nasdeploy.core.counting.chain import extremes
from nasdeploy.core.counting.rounded import Rounded
from nasdeploy.core.plan import Block
from nasdeploy.core.space import Slot
from nasdeploy.spaces import load_space
from tests.small_spaces import LayerwiseSpace, ToySpace, every_code

SPACE = ToySpace()
CODES = every_code(SPACE)
ROUNDED = Rounded(SPACE, macs)
LAYERWISE = LayerwiseSpace()
BIG = Rounded(LAYERWISE, macs)


@given(st.integers(0, 500), st.integers(0, 500))
def test_counts_of_a_small_space(low, high):
    costs = Costs(SPACE, [macs])(CODES)[:, 0]
    expected = np.count_nonzero((costs >= low) & (costs <= high))
    found = ROUNDED.within(low, high)
    assert abs(found.count - expected) <= 0.5 + 4 * found.standard_error


def test_draws_are_uniform():
    costs = Costs(SPACE, [macs])(CODES)[:, 0]
    low, high = np.quantile(costs, [0.2, 0.6])
    inside = {tuple(code) for code in CODES[(costs >= low) & (costs <= high)].tolist()}
    codes = ROUNDED.within(low, high).sample(100 * len(inside), np.random.default_rng(0))
    found, counts = np.unique(codes, axis=0, return_counts=True)
    assert {tuple(code) for code in found.tolist()} == inside
    assert chisquare(counts).pvalue > 0.01


@pytest.mark.parametrize("cost", [macs, params])
def test_counts_of_many_intervals_of_a_registered_space(cost):
    space = load_space("digits", 10)
    rounded, costs = Rounded(space, cost), Costs(space, [cost])(every_code(space))[:, 0]
    cheapest, dearest = extremes(space, cost)
    for low in np.linspace(cheapest.cost, dearest.cost, 6):
        high = low + 0.03 * (dearest.cost - cheapest.cost)
        found = rounded.within(low, high)
        expected = np.count_nonzero((costs >= low) & (costs <= high))
        assert abs(found.count - expected) <= 0.5 + 4 * found.standard_error


@pytest.mark.parametrize(("low", "high"), [(-inf, -1), (200, 100), (1e300, inf), (-1e300, -1e299)])
def test_empty_intervals(low, high):
    interval = ROUNDED.within(low, high)
    assert interval.count == 0
    assert interval.sample(5, np.random.default_rng(0)).shape == (0, len(SPACE.choices))
    assert len(ROUNDED.evenly(low, high, 5, np.random.default_rng(0))) == 0


def test_an_interval_between_two_costs_has_nothing_to_draw():
    costs = np.unique(Costs(SPACE, [macs])(CODES)[:, 0])
    interval = ROUNDED.within(costs[3] + 1e-9, costs[4] - 1e-9)
    assert interval.count <= 4 * interval.standard_error
    assert len(interval.sample(5, np.random.default_rng(0))) == 0


def test_all_of_a_big_space_are_counted():
    assert LAYERWISE.size > 10**20
    assert BIG.within(-inf, inf).count == pytest.approx(LAYERWISE.size, rel=1e-12)


@pytest.mark.parametrize("place", [0.05, 0.2, 0.5, 0.9])
def test_few_draws_from_a_big_space_miss(place):
    cheapest, dearest = extremes(LAYERWISE, macs)
    low = cheapest.cost + place * (dearest.cost - cheapest.cost)
    high = low + 0.01 * (dearest.cost - cheapest.cost)
    interval = BIG.within(low, high)
    codes = interval.sample(500, np.random.default_rng(0))
    costs = Costs(LAYERWISE, [macs])(codes)[:, 0]
    assert len(codes) == 500 and low <= costs.min() and costs.max() <= high


def test_a_part_of_a_big_space_is_counted_as_uniform_draws_say():
    uniform = Costs(LAYERWISE, [macs])(LAYERWISE.sample_codes(200_000, np.random.default_rng(0)))[:, 0]
    low, high = np.quantile(uniform, [0.1, 0.3])
    assert BIG.within(low, high).count / LAYERWISE.size == pytest.approx(0.2, abs=0.004)


def test_draws_at_even_distances():
    cheapest, dearest = extremes(LAYERWISE, macs)
    codes = BIG.evenly(-inf, inf, 101, np.random.default_rng(0))
    costs = Costs(LAYERWISE, [macs])(codes)[:, 0]
    assert costs == pytest.approx(np.linspace(cheapest.cost, dearest.cost, 101), abs=0.01 * dearest.cost)
    assert costs[0] == cheapest.cost and costs[-1] == dearest.cost


def test_choices_that_no_slot_reads_are_drawn_too():
    class Idle(ToySpace):
        choices = (Choice("idle", (1, 2, 3)), *ToySpace.choices)

    space = Idle()
    interval = Rounded(space, macs).within(0, 200)
    expected = 3 * np.count_nonzero(Costs(SPACE, [macs])(CODES)[:, 0] <= 200)
    assert abs(interval.count - expected) <= 0.5 + 4 * interval.standard_error
    drawn = interval.sample(3000, np.random.default_rng(0))[:, 0]
    assert chisquare(np.bincount(drawn, minlength=3)).pvalue > 0.01


def test_a_cost_that_is_always_the_same():
    rounded = Rounded(SPACE, lambda slot, block: 2.0 if slot.name == "first" else 0.0)
    assert rounded.within(2.0, 2.0).count == SPACE.size
    assert rounded.within(2.1, 3.0).count == 0
    assert len(rounded.evenly(0.0, 3.0, 7, np.random.default_rng(0))) == 7


def test_costs_below_zero():
    def cost(slot: Slot, block: Block) -> float:
        return -1.0 if slot.name in ("first", "last") else 0.0

    assert Rounded(SPACE, cost).within(-inf, -1.5).count == SPACE.size // 2


def test_draws_depend_on_the_generator_alone():
    interval = ROUNDED.within(0, 400)
    one, two, other = (interval.sample(50, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def drawn_cost(seed):
    """A cost of each slot and block that is no round number."""
    rng = np.random.default_rng(seed)
    known = {(slot.name, block.key): rng.normal() for slot in SPACE.slots for block in SPACE.blocks_of(slot) if block}
    return lambda slot, block: known[slot.name, block.key]


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 1))
def test_counts_of_costs_that_are_no_round_numbers(seed, low, high):
    cost = drawn_cost(seed)
    costs = Costs(SPACE, [cost])(CODES)[:, 0]
    # Bounds that are costs of architectures.
    low, high = np.quantile(costs, low, method="nearest"), np.quantile(costs, high, method="nearest")
    expected = np.count_nonzero((costs >= low) & (costs <= high))
    found = Rounded(SPACE, cost).within(low, high)
    assert abs(found.count - expected) <= 0.5 + 4 * found.standard_error


@pytest.mark.slow
def test_alphanet_as_a_whole_and_in_part():
    space = load_space("alphanet")
    cheapest, dearest = extremes(space, macs)
    counted = Rounded(space, macs)
    assert counted.within(-inf, inf).count == space.size
    middle = (cheapest.cost + dearest.cost) / 2
    below, above = counted.within(0, middle), counted.within(middle + 0.5, inf)
    assert abs(below.count + above.count - space.size) <= 4 * (below.standard_error + above.standard_error)
    interval = counted.within(middle, 1.01 * middle)
    costs = Costs(space, [macs])(interval.sample(10_000, np.random.default_rng(0)))[:, 0]
    assert middle <= costs.min() and costs.max() <= 1.01 * middle
    # Of all that are drawn uniformly, the counted share is inside.
    uniform = Costs(space, [macs])(space.sample_codes(1_000_000, np.random.default_rng(0)))[:, 0]
    share = interval.count / space.size
    inside = np.count_nonzero((uniform >= middle) & (uniform <= 1.01 * middle))
    assert abs(inside - 1e6 * share) < 4 * np.sqrt(1e6 * share)
    assert interval.standard_error < 0.01 * interval.count
