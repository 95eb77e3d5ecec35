"""Networks over the whole latency range."""

import numpy as np
import pytest

from nasdeploy.core.cost_registry import macs
from nasdeploy.core.counting.chain import extremes
from nasdeploy.latency.calibration import stratified
from nasdeploy.spaces import load_space
from tests.latency.tables import archs
from tests.small_spaces import ToySpace


@pytest.fixture(scope="module")
def chosen():
    space = load_space("alphanet")
    return space, stratified(space, macs, 64, np.random.default_rng(0))


def test_are_different_ascending_and_reach_both_ends(chosen):
    space, found = chosen
    assert len(set(found)) == 64
    cost = [space.plan(arch).macs for arch in found]
    assert cost == sorted(cost)
    cheapest, dearest = extremes(space, macs)
    assert (found[0], found[-1]) == (cheapest.arch, dearest.arch)


def test_leave_no_gap(chosen):
    space, found = chosen
    cost = np.log([space.plan(arch).macs for arch in found])
    assert np.diff(cost).max() < 2 * (cost[-1] - cost[0]) / 63


def test_uniform_draws_would_leave_gaps(chosen):
    space, _ = chosen
    draw = np.random.default_rng(0)
    cost = np.log(sorted(space.plan(space.sample(draw)).macs for _ in range(64)))
    lowest = np.log(space.plan(space.smallest()).macs)
    assert cost[0] - lowest > 5 * (cost[-1] - lowest) / 63


def test_depend_on_the_generator_alone():
    space = load_space("digits", 10)
    once, again, other = (stratified(space, macs, 12, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert once == again
    assert once != other


def test_small_space_gives_what_it_has():
    space, everything = ToySpace(), archs()
    found = stratified(space, macs, 10_000, np.random.default_rng(0))
    assert set(found) <= set(everything)
    assert 0.9 * len(everything) < len(found) == len(set(found))
