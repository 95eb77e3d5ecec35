import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nasdeploy.core.randomness import generator, seed_for

PURPOSES = st.lists(st.integers(0, 2**31) | st.sampled_from(["step", "epoch", "sample"]), max_size=4).map(tuple)


@given(st.integers(0, 2**31), PURPOSES, PURPOSES)
def test_different_purposes_have_different_seeds(seed: int, one: tuple[str | int], other: tuple[str | int]) -> None:
    assert (seed_for(seed, *one) == seed_for(seed, *other)) == (one == other)


def test_a_trailing_zero_is_a_purpose_of_its_own() -> None:
    assert seed_for(0, "epoch") != seed_for(0, "epoch", 0)


def test_seeds_fit_torch_and_stay_the_same() -> None:
    seeds = [seed_for(seed, "step", 17) for seed in range(1000)]
    assert len(set(seeds)) == 1000
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert seed_for(0, "step", 17) == 3646203782447462277


def test_generators_agree() -> None:
    assert np.array_equal(generator(3, "x").random(4), generator(3, "x").random(4))
    assert not np.array_equal(generator(3, "x").random(4), generator(3, "y").random(4))
