"""Sampling by regimes: spread, seeded, nested, and complete where a space is small enough to count."""

from itertools import product

import numpy as np
import pytest

from nasdeploy.core.randomness import generator
from nasdeploy.spaces import load_space
from nasdeploy.workflows.evaluate import regime_edges, regimes_of, sample_regimes
from tests.small_spaces import ToySpace

SPACE = load_space("digits", 10)


def megas(arch) -> float:
    return SPACE.plan(arch).macs / 1e6


def test_edges_rise_at_equal_ratios_between_the_extremes_of_all_spaces():
    edges = regime_edges([load_space("cifar10", 10), SPACE], 4)
    assert edges[0] == SPACE.plan(SPACE.smallest()).macs
    assert edges[-1] == load_space("cifar10", 10).plan(load_space("cifar10", 10).largest()).macs
    assert np.diff(np.log(edges)) == pytest.approx(np.log(edges[-1] / edges[0]) / 4)


def test_a_cost_belongs_to_the_regime_above_an_edge_and_none_falls_outside():
    assert regimes_of(np.array([1.0, 9.9, 10.0, 99.0, 100.0]), np.array([1.0, 10.0, 100.0])).tolist() == [0, 0, 1, 1, 1]


def test_as_many_from_each_regime_the_extremes_among_them():
    edges = regime_edges([SPACE], 5)
    regimes = sample_regimes(SPACE, edges, 42, generator(0, "evaluate"))
    assert [len(regime) for regime in regimes] == [9, 9, 8, 8, 8]
    for regime, low, high in zip(regimes, edges, edges[1:], strict=False):
        assert all(low <= 1e6 * megas(arch) <= high for arch in regime)
    assert SPACE.smallest() in regimes[0]
    assert SPACE.largest() in regimes[-1]
    assert len({arch for regime in regimes for arch in regime}) == 42


def test_the_same_seed_draws_the_same_and_more_of_it():
    edges = regime_edges([SPACE], 3)
    few, many, others = (
        sample_regimes(SPACE, edges, number, generator(seed, "evaluate")) for number, seed in ((6, 0), (15, 0), (6, 1))
    )
    assert [set(regime) for regime in few] == [set(regime[:2]) for regime in many]
    assert few != others


def test_a_small_space_is_used_up():
    space = ToySpace()
    every = {
        space.arch(dict(zip(space.values_of, values, strict=True))) for values in product(*space.values_of.values())
    }
    regimes = sample_regimes(space, regime_edges([space], 3), 10_000, generator(0, "evaluate"))
    assert {arch for regime in regimes for arch in regime} == every


def test_regimes_that_a_space_does_not_reach_are_empty():
    edges = regime_edges([SPACE, load_space("cifar10", 10)], 4)
    regimes = sample_regimes(SPACE, edges, 10, generator(0, "evaluate"))
    reached = int(regimes_of(np.array([1e6 * megas(SPACE.largest())]), edges)[0])
    assert reached < 3
    assert [bool(regime) for regime in regimes] == [place <= reached for place in range(4)]
    assert sum(len(regime) for regime in regimes) == 10
