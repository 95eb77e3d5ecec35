"""The prior against counting every architecture of a space that is small enough for it."""

from collections import Counter
from itertools import product

import numpy as np
import pytest

from nasdeploy.core import cost_registry as costs
from nasdeploy.core.arch import Arch
from nasdeploy.core.costs import Costs, Floats
from nasdeploy.core.space import Codes
from nasdeploy.spaces import load_space
from nasdeploy.training.sampling import TRIES, Bins, Prior, equal_bins
from tests.small_spaces import two_stages

SPACE = two_stages()
WIDTH = 20e3


def macs(codes: Codes) -> Floats:
    return Costs(SPACE, [costs.macs])(codes)[:, 0]


def every_code() -> Codes:
    return np.array(list(product(*(range(len(choice.values)) for choice in SPACE.choices))), dtype=np.int16)


@pytest.fixture(scope="module")
def prior() -> Prior:
    """Of every architecture once: the uniform distribution itself."""
    return Prior.counted(SPACE, macs, every_code(), Bins(0.0, WIDTH))


def bin_of(arch: Arch) -> int:
    return int(SPACE.plan(arch).macs // WIDTH)


def test_the_histogram_counts_networks_by_cost(prior: Prior) -> None:
    expected = Counter(bin_of(arch) for arch in SPACE.decode(every_code()))
    assert len(expected) > 5
    assert dict(zip(prior.numbers.tolist(), prior.counts.tolist(), strict=True)) == expected


def test_each_choice_is_counted_within_its_bin(prior: Prior) -> None:
    place = int(prior.counts.argmax())
    inside = [
        row
        for row, arch in zip(every_code(), SPACE.decode(every_code()), strict=True)
        if bin_of(arch) == prior.numbers[place]
    ]
    for column, choice in enumerate(SPACE.choices):
        counts = np.bincount([row[column] for row in inside], minlength=len(choice.values))
        assert np.diff(prior.cumulative[place, column], prepend=0)[: len(counts)].tolist() == counts.tolist()
        assert prior.cumulative[place, column, -1] == len(inside)


def test_networks_of_a_draw_lie_in_one_bin_and_bins_come_as_often_as_counted(prior: Prior) -> None:
    rng, drawn = np.random.default_rng(0), Counter[int]()
    for _ in range(2000):
        bins = {bin_of(arch) for arch in prior.draw(3, rng)}
        assert len(bins) == 1
        drawn.update(bins)
    shares = prior.counts / prior.counts.sum()
    found = np.array([drawn[number] for number in prior.numbers.tolist()]) / 2000
    assert np.abs(found - shares).max() < 5 * np.sqrt(shares.max() / 2000)


def test_choices_come_from_their_distribution_in_the_bin() -> None:
    """Where every draw hits, what is drawn has the frequencies that were counted."""
    codes = np.random.default_rng(0).choice(every_code(), 400, p=weights())
    prior = Prior.counted(SPACE, macs, codes, Bins(0.0, 1e12))
    drawn = SPACE.encode([arch for _ in range(40) for arch in prior.draw(50, np.random.default_rng(_))])
    resolution = 0
    expected = (codes[:, resolution] == 1).mean()
    assert expected > 0.75
    assert (drawn[:, resolution] == 1).mean() == pytest.approx(expected, abs=0.05)


def weights() -> Floats:
    """Four times as many of the larger resolution."""
    row = np.where(every_code()[:, 0] == 1, 4.0, 1.0)
    return row / row.sum()


def test_a_bin_that_is_never_hit_gives_the_nearest_draw() -> None:
    """Two networks that differ everywhere, whose mixtures all cost something else."""
    ends = SPACE.encode([SPACE.smallest(), SPACE.largest()])
    base = macs(ends)
    asked: list[Floats] = []

    def moving(codes: Codes) -> Floats:
        """Once counted, everything costs more than the bin holds."""
        if len(codes) == 2:
            return base
        asked.append(base[1] + 1e6 + macs(codes))
        return asked[-1]

    prior = Prior.counted(SPACE, moving, ends, Bins(0.0, WIDTH))
    (arch,) = prior.draw(1, np.random.default_rng(0))
    assert asked[0].shape == (TRIES,)
    assert SPACE.plan(arch).macs == min(asked[0]) - base[1] - 1e6


def test_draws_follow_from_the_generator(prior: Prior) -> None:
    assert prior.draw(3, np.random.default_rng(1)) == prior.draw(3, np.random.default_rng(1))
    assert prior.draw(3, np.random.default_rng(1)) != prior.draw(3, np.random.default_rng(2))


@pytest.mark.parametrize("values", [[3.0, 3.0], [1.0, 2.0, 9.0], [0.0, 0.0], [1e-3, 1.1e-3]])
def test_equal_bins_hold_every_cost(values: list[float]) -> None:
    numbers = equal_bins(np.array(values), 4).numbers(np.array(values))
    assert numbers.min() == 0
    assert numbers.max() == (3 if values[0] != values[-1] else 0)


def test_bins_of_25_million_macs_are_mostly_hit_in_alphanets_space() -> None:
    space = load_space("alphanet")
    cost = Costs(space, [costs.macs])
    codes = space.sample_codes(20_000, np.random.default_rng(0))
    prior = Prior.counted(space, lambda codes: cost(codes)[:, 0], codes, Bins(0.0, 25e6))
    rng, hits = np.random.default_rng(1), 0
    for _ in range(100):
        hits += len({int(space.plan(arch).macs // 25e6) for arch in prior.draw(3, rng)}) == 1
    assert hits >= 95
