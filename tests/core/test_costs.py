import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasdeploy.core import cost_registry as costs
from nasdeploy.core.costs import Costs
from nasdeploy.core.plan import Block
from nasdeploy.core.space import Slot
from tests.small_spaces import ToySpace

SPACE = ToySpace()


@given(st.integers(0, 2**32), st.integers(1, 200))
def test_batch_costs_are_those_of_the_plans(seed: int, count: int) -> None:
    codes = SPACE.sample_codes(count, np.random.default_rng(seed))
    found = Costs(SPACE, [costs.macs, costs.params, lambda slot, block: float(slot.part.runs)])(codes)
    plans = [SPACE.plan(arch) for arch in SPACE.decode(codes)]
    expected = [[p.macs, p.params, p.total(lambda block: 1)] for p in plans]
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("largest_table", [1, 12, 100, 10**6])
def test_however_slots_are_merged(largest_table: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasdeploy.core.costs._LARGEST_TABLE", largest_table)
    codes = SPACE.sample_codes(300, np.random.default_rng(0))
    found = Costs(SPACE, [costs.macs])(codes)[:, 0]
    assert np.array_equal(found, [SPACE.plan(arch).macs for arch in SPACE.decode(codes)])


@pytest.mark.parametrize("count", [0, 1, 8191, 8192, 8193])
def test_every_chunk_is_scored(count: int) -> None:
    codes = SPACE.sample_codes(count, np.random.default_rng(0))
    found = Costs(SPACE, [costs.macs, costs.params])(codes)
    assert found.shape == (count, 2)
    few = Costs(SPACE, [costs.macs, costs.params])(codes[-3:])
    assert np.array_equal(found[-3:], few)


def test_a_cost_may_depend_on_the_slot() -> None:
    def in_last(slot: Slot, block: Block) -> float:
        return 0.1 if slot.name == "last" else 0.0

    codes = SPACE.sample_codes(50, np.random.default_rng(0))
    found = Costs(SPACE, [in_last])(codes)[:, 0]
    assert np.array_equal(
        found, [0.1 * any(step.name == "last" for step in SPACE.plan(a)) for a in SPACE.decode(codes)]
    )


def test_big_sums_are_exact() -> None:
    def big(slot: Slot, block: Block) -> float:
        return float(2**50 + block.macs)

    codes = SPACE.sample_codes(50, np.random.default_rng(0))
    found = Costs(SPACE, [big])(codes)[:, 0]
    plans = [SPACE.plan(arch) for arch in SPACE.decode(codes)]
    assert [int(value) for value in found] == [sum(2**50 + step.block.macs for step in plan) for plan in plans]
