"""The best architecture within a bound, against enumeration."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasdeploy.core.cost_registry import SlotCost, macs
from nasdeploy.core.costs import Costs, Floats
from nasdeploy.core.counting.chain import ValueTable, best_by_choices, best_by_tables, extremes
from nasdeploy.core.counting.rounded import Rounded
from nasdeploy.core.space import Codes, SearchSpace
from nasdeploy.spaces import load_space
from tests.small_spaces import LayerwiseSpace, ToySpace, every_code


def drawn(space: SearchSpace, seed: int) -> SlotCost:
    """A cost of each slot and block, about as large as its MACs."""
    rng = np.random.default_rng(seed)
    blocks = [(slot, block) for slot in space.slots for block in space.blocks_of(slot) if block is not None]
    known = {(slot.name, block.key): block.macs * rng.uniform(0.5, 1.5) for slot, block in blocks}
    return lambda slot, block: known[slot.name, block.key]


def terms_of(space: SearchSpace, seed: int) -> list[Floats]:
    """A value of each value of each choice, of which half are below zero."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=len(choice.values)) for choice in space.choices]


def total(terms: list[Floats], codes: Codes) -> Floats:
    """The sum of terms `[n]` of codes `[n, choices]`."""
    return np.sum([term[codes[:, place]] for place, term in enumerate(terms)], axis=0)


def check(space: SearchSpace, cost: SlotCost, terms: list[Floats], part: float) -> None:
    codes = every_code(space)
    costs, values = Costs(space, [cost])(codes)[:, 0], total(terms, codes)
    bound = float(np.quantile(costs, part, method="nearest"))
    found = best_by_choices(space, cost, bound, terms)
    assert found is not None
    assert found.value == pytest.approx(values[costs <= bound * (1 + 1e-12)].max(), rel=1e-12)
    assert found.cost <= bound * (1 + 1e-12)
    assert Costs(space, [cost])(space.encode([found.arch]))[0, 0] == pytest.approx(found.cost)


TOY = ToySpace()


@given(st.integers(0, 2**31), st.floats(0, 1))
def test_equals_enumeration(seed: int, part: float) -> None:
    check(TOY, drawn(TOY, seed), terms_of(TOY, seed + 1), part)
    check(TOY, macs, terms_of(TOY, seed), part)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("space", [load_space("digits", 10), LayerwiseSpace(1)], ids=lambda space: space.name)
def test_equals_enumeration_of_a_hundred_thousand(space: SearchSpace, part: float) -> None:
    check(space, drawn(space, 0), terms_of(space, 1), part)


def tables_of(space: SearchSpace, seed: int) -> list[ValueTable]:
    """A value of each combination of two choices, for overlapping pairs that slots do not read together."""
    rng = np.random.default_rng(seed)
    places = rng.permutation(len(space.choices))
    pairs = [(space.choices[a], space.choices[b]) for a, b in pairwise(places)]
    return [
        ValueTable((one.name, other.name), rng.normal(size=(len(one.values), len(other.values))))
        for one, other in pairs
    ]


def looked_up(space: SearchSpace, tables: list[ValueTable], codes: Codes) -> Floats:
    """The sum of tables `[n]` of codes `[n, choices]`."""
    place = {choice.name: number for number, choice in enumerate(space.choices)}
    return np.sum([t.values[tuple(codes[:, place[name]] for name in t.reads)] for t in tables], axis=0)


@given(st.integers(0, 2**31), st.floats(0, 1), st.integers(1, 400))
def test_the_best_few_by_tables_of_several_choices_equal_enumeration(seed: int, part: float, count: int) -> None:
    cost, tables, codes = drawn(TOY, seed), tables_of(TOY, seed), every_code(TOY)
    costs, values = Costs(TOY, [cost])(codes)[:, 0], looked_up(TOY, tables, codes)
    bound = float(np.quantile(costs, part, method="nearest"))
    found = best_by_tables(TOY, cost, bound, tables, count)
    within = np.flatnonzero(costs <= bound * (1 + 1e-12))
    best = within[np.argsort(-values[within], kind="stable")][:count]
    # Several combinations may be one architecture, of which the best stands for all.
    expected = dict(zip(reversed(TOY.decode(codes[best])), reversed(values[best]), strict=True))
    assert [one.value for one in found] == pytest.approx(sorted(expected.values(), reverse=True), rel=1e-9, abs=1e-9)
    assert {one.arch for one in found} == set(expected)
    assert all(one.cost <= bound * (1 + 1e-12) for one in found)


def test_the_best_of_many_are_kept_where_there_are_more_than_are_compared_at_once() -> None:
    space = load_space("digits", 10)
    tables = [ValueTable((choice.name,), term) for choice, term in zip(space.choices, terms_of(space, 3), strict=True)]
    codes = every_code(space)
    costs, values = Costs(space, [macs])(codes)[:, 0], looked_up(space, tables, codes)
    bound = float(np.quantile(costs, 0.3))
    found = best_by_tables(space, macs, bound, tables, 300)
    assert [one.value for one in found] == pytest.approx(np.sort(values[costs <= bound])[::-1][:300], rel=1e-9)


def test_nothing_within_the_bound() -> None:
    assert best_by_choices(TOY, macs, 1.0, terms_of(TOY, 0)) is None
    assert best_by_tables(TOY, macs, 1.0, tables_of(TOY, 0), 5) == []


def test_the_cheapest_of_equal_values() -> None:
    found = best_by_choices(TOY, macs, 1e9, [np.zeros(len(choice.values)) for choice in TOY.choices])
    assert found is not None
    assert found.value == 0
    assert found.cost == extremes(TOY, macs)[0].cost


@pytest.mark.parametrize("space", [load_space("alphanet"), LayerwiseSpace()], ids=lambda space: space.name)
def test_nothing_that_is_drawn_within_the_bound_is_better(space: SearchSpace) -> None:
    cost, terms = drawn(space, 0), terms_of(space, 1)
    cheapest, dearest = extremes(space, cost)
    bound = cheapest.cost + 0.1 * (dearest.cost - cheapest.cost)
    found = best_by_choices(space, cost, bound, terms)
    assert found is not None and found.cost <= bound
    codes = Rounded(space, cost).within(0.99 * bound, bound).sample(2000, np.random.default_rng(0))
    assert total(terms, codes).max() < found.value
    # A change of any one choice that keeps to the bound makes it no better.
    one = space.encode([found.arch])
    changed = np.repeat(one, 20 * len(space.choices), axis=0)
    rows, places = np.arange(len(changed)), np.arange(len(changed)) % len(space.choices)
    changed[rows, places] = space.sample_codes(len(changed), np.random.default_rng(1))[rows, places]
    costs, values = Costs(space, [cost])(changed)[:, 0], total(terms, changed)
    assert values[costs <= bound].max() <= found.value + 1e-12 * abs(found.value)


def test_without_a_bound_each_choice_is_at_its_best() -> None:
    space = load_space("bignas")
    terms = terms_of(space, 0)
    found = best_by_choices(space, macs, float("inf"), terms)
    assert found is not None and found.value == pytest.approx(sum(term.max() for term in terms))


@pytest.mark.parametrize("part", [0.01, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_found_has_the_stated_sum_and_cost(seed: int, part: float) -> None:
    space = load_space("digits", 10)
    terms, codes = terms_of(space, seed), every_code(space)
    bound = float(np.quantile(Costs(space, [macs])(codes)[:, 0], part, method="nearest"))
    found = best_by_choices(space, macs, bound, terms)
    assert found is not None
    assert total(terms, space.encode([found.arch]))[0] == pytest.approx(found.value)
    assert space.plan(found.arch).macs == found.cost <= bound
