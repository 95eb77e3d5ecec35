"""The best architecture within a bound, against enumeration."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasdeploy.core.costs import Costs, SlotCost, macs, params
from nasdeploy.core.counting.cost_range import extremes
from nasdeploy.core.counting.optimum import best_by_choices, best_within
from nasdeploy.core.counting.rounded import Rounded
from nasdeploy.core.space import SearchSpace
from nasdeploy.spaces import load_space
from tests.core.counting.spaces import LayerwiseSpace, every_code
from tests.toy import ToySpace


def drawn(space: SearchSpace, seed: int) -> SlotCost:
    """A cost of each slot and block, about as large as its MACs."""
    rng = np.random.default_rng(seed)
    blocks = [(slot, block) for slot in space.slots for block in space.blocks_of(slot) if block is not None]
    known = {(slot.name, block.key): slot.part.runs * block.macs * rng.uniform(0.5, 1.5) for slot, block in blocks}
    return lambda slot, block: known[slot.name, block.key]


def check(space: SearchSpace, cost: SlotCost, value: SlotCost, part: float) -> None:
    costs, values = Costs(space, [cost, value])(every_code(space)).T
    bound = float(np.quantile(costs, part, method="nearest"))
    found = best_within(space, cost, bound, value)
    assert found is not None
    assert found.value == pytest.approx(values[costs <= bound * (1 + 1e-12)].max(), rel=1e-12)
    assert found.cost <= bound * (1 + 1e-12)
    assert Costs(space, [cost, value])(space.encode([found.arch]))[0] == pytest.approx([found.cost, found.value])


TOY = ToySpace()


@given(st.integers(0, 2**31), st.floats(0, 1))
def test_equals_enumeration(seed, part):
    check(TOY, drawn(TOY, seed), drawn(TOY, seed + 1), part)
    check(TOY, macs, drawn(TOY, seed), part)


@given(st.integers(0, 2**31))
def test_values_may_be_negative(seed):
    value = drawn(TOY, seed)
    check(TOY, macs, lambda slot, block: -value(slot, block), 0.5)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("space", [load_space("digits", 10), LayerwiseSpace(1)], ids=lambda space: space.name)
def test_equals_enumeration_of_a_hundred_thousand(space, part):
    check(space, drawn(space, 0), drawn(space, 1), part)


def test_nothing_within_the_bound():
    assert best_within(TOY, macs, 1.0, params) is None


def test_the_cheapest_of_equal_values():
    found = best_within(TOY, macs, 1e9, lambda slot, block: 1.0)
    full = [code for code in TOY.decode(every_code(TOY)) if len(TOY.plan(code).steps) == len(TOY.slots)]
    assert found is not None
    assert found.value == len(TOY.slots)
    assert found.cost == min(TOY.plan(arch).macs for arch in full)


@pytest.mark.parametrize("space", [load_space("alphanet"), LayerwiseSpace()], ids=lambda space: space.name)
def test_nothing_that_is_drawn_within_the_bound_is_better(space):
    cost, value = drawn(space, 0), drawn(space, 1)
    cheapest, dearest = extremes(space, cost)
    bound = cheapest.cost + 0.1 * (dearest.cost - cheapest.cost)
    found = best_within(space, cost, bound, value)
    assert found is not None and found.cost <= bound
    codes = Rounded(space, cost).within(0.99 * bound, bound).sample(2000, np.random.default_rng(0))
    assert Costs(space, [value])(codes).max() < found.value
    # A change of any one choice that keeps to the bound makes it no better.
    one = space.encode([found.arch])
    changed = np.repeat(one, 20 * len(space.choices), axis=0)
    rows, places = np.arange(len(changed)), np.arange(len(changed)) % len(space.choices)
    changed[rows, places] = space.sample_codes(len(changed), np.random.default_rng(1))[rows, places]
    costs, values = Costs(space, [cost, value])(changed).T
    assert values[costs <= bound].max() <= found.value * (1 + 1e-12)


def test_without_a_bound_the_largest_value():
    space = load_space("bignas")
    found = best_within(space, macs, float("inf"), params)
    assert found is not None and found.value == extremes(space, params)[1].cost


def terms_of(space: SearchSpace, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=len(choice.values)) for choice in space.choices]


@pytest.mark.parametrize("part", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_of_terms_for_choices_the_best_sum_is_found(seed: int, part: float) -> None:
    space = load_space("digits", 10)
    terms, codes = terms_of(space, seed), every_code(space)
    costs = Costs(space, [macs])(codes)[:, 0]
    values = sum(term[codes[:, place]] for place, term in enumerate(terms))
    bound = float(np.quantile(costs, part, method="nearest"))
    found = best_by_choices(space, macs, bound, terms)
    assert found is not None
    assert found.value == pytest.approx(values[costs <= bound].max(), rel=1e-12)
    (code,) = space.encode([found.arch])
    assert sum(term[code[place]] for place, term in enumerate(terms)) == pytest.approx(found.value)
    assert space.plan(found.arch).macs == found.cost <= bound


def test_terms_within_nothing() -> None:
    assert best_by_choices(TOY, macs, 1.0, terms_of(TOY, 0)) is None
