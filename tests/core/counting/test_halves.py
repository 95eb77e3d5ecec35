"""Exact counts and uniform draws, against enumeration."""

from itertools import pairwise
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from nasdeploy.core.costs import Costs, macs, params
from nasdeploy.core.counting import counter
from nasdeploy.core.counting.cost_range import extremes
from nasdeploy.core.counting.halves import Halves, find_cut
from nasdeploy.core.counting.rounded import Rounded
from nasdeploy.spaces import load_space
from tests.core.counting.spaces import LayerwiseSpace, every_code
from tests.toy import ToySpace

SPACE = ToySpace()
CODES = every_code(SPACE)
DIGITS = load_space("digits", 10)


def drawn_cost(seed):
    """A cost of each slot and block that is no round number."""
    rng = np.random.default_rng(seed)
    known = {(slot.name, block.key): rng.normal() for slot in SPACE.slots for block in SPACE.blocks_of(slot) if block}
    return lambda slot, block: known[slot.name, block.key]


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 1))
def test_counts_are_those_of_enumeration(seed, low, high):
    cost = drawn_cost(seed)
    costs = Costs(SPACE, [cost])(CODES)[:, 0]
    # Bounds that are costs of architectures, which both count as inside.
    low, high = np.quantile(costs, low, method="nearest"), np.quantile(costs, high, method="nearest")
    expected = np.count_nonzero((costs >= low - 1e-9) & (costs <= high + 1e-9)) if low <= high else 0
    assert Halves(SPACE, cost, find_cut(SPACE)).within(low, high).count == expected


@given(st.integers(0, 2000), st.integers(0, 2000))
def test_counts_of_integer_costs_are_exact_at_the_bounds(low, high):
    costs = Costs(SPACE, [macs])(CODES)[:, 0]
    found = HALVES.within(low, high)
    assert found.count == np.count_nonzero((costs >= low) & (costs <= high))
    assert found.exact and found.standard_error == 0


HALVES = Halves(SPACE, macs, find_cut(SPACE))


def test_large_integers_are_exact_too():
    def count(slot, block):
        return float(slot.part.runs)

    costs = 10**9 * Costs(SPACE, [macs])(CODES)[:, 0] + Costs(SPACE, [count])(CODES)[:, 0]
    halves = Halves(SPACE, lambda slot, block: 1e9 * macs(slot, block) + count(slot, block), find_cut(SPACE))
    for bound in np.unique(costs)[::20]:
        assert halves.within(-inf, bound).count == np.count_nonzero(costs <= bound)
        assert halves.within(bound + 1, inf).count == np.count_nonzero(costs > bound)


@pytest.mark.parametrize(("low", "high"), [(-inf, -1), (200, 100), (1e300, inf), (-1e300, -1e299)])
def test_empty_intervals(low, high):
    interval = HALVES.within(low, high)
    assert interval.count == 0
    assert interval.sample(5, np.random.default_rng(0)).shape == (0, len(SPACE.choices))


@pytest.mark.parametrize("cost", [macs, params])
def test_counts_of_many_intervals_of_a_registered_space(cost):
    costs = Costs(DIGITS, [cost])(every_code(DIGITS))[:, 0]
    halves = Halves(DIGITS, cost, find_cut(DIGITS))
    edges = np.linspace(costs.min(), costs.max(), 20)
    for low, high in pairwise(edges):
        assert halves.within(low, high).count == np.count_nonzero((costs >= low) & (costs <= high))


def test_draws_are_uniform():
    costs = Costs(SPACE, [macs])(CODES)[:, 0]
    low, high = np.quantile(costs, [0.2, 0.6])
    inside = {tuple(code) for code in CODES[(costs >= low) & (costs <= high)].tolist()}
    codes = HALVES.within(low, high).sample(100 * len(inside), np.random.default_rng(0))
    found, counts = np.unique(codes, axis=0, return_counts=True)
    assert {tuple(code) for code in found.tolist()} == inside
    assert chisquare(counts).pvalue > 0.01


def test_draws_depend_on_the_generator_alone():
    interval = HALVES.within(0, 400)
    one, two, other = (interval.sample(50, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_alphanet_is_cut_after_stage_4():
    space = load_space("alphanet")
    cut = find_cut(space)
    sizes = [np.prod([len(space.values_of[name]) for name in names]) for names in (cut.both, cut.many, cut.few)]
    assert cut.both == ("resolution", "width.4")
    assert sizes == [8, 663_552, 82_944]


@pytest.mark.slow
def test_alphanet_as_a_whole_and_in_part():
    space = load_space("alphanet")
    cheapest, dearest = extremes(space, macs)
    counted = counter(space, macs)
    assert isinstance(counted, Halves)
    assert counted.within(-inf, inf).count == space.size
    assert counted.within(cheapest.cost, cheapest.cost).count == 1
    middle = (cheapest.cost + dearest.cost) / 2
    below, above = counted.within(0, middle).count, counted.within(middle + 0.5, inf).count
    assert below + above == space.size
    interval = counted.within(middle, 1.01 * middle)
    costs = Costs(space, [macs])(interval.sample(10_000, np.random.default_rng(0)))[:, 0]
    assert middle <= costs.min() and costs.max() <= 1.01 * middle
    # Of all that are drawn uniformly, the counted share is inside.
    uniform = Costs(space, [macs])(space.sample_codes(1_000_000, np.random.default_rng(0)))[:, 0]
    share = interval.count / space.size
    inside = np.count_nonzero((uniform >= middle) & (uniform <= 1.01 * middle))
    assert abs(inside - 1e6 * share) < 4 * np.sqrt(1e6 * share)


def test_spaces_without_a_small_cut_are_counted_on_rounded_costs():
    assert find_cut(LayerwiseSpace()) is None
    assert isinstance(counter(LayerwiseSpace(), macs), Rounded)
