import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasdeploy.initial_recipe.choices import ImageTimes, search_for, shape_for, training_for
from nasdeploy.initial_recipe.growing import Growth
from nasdeploy.spaces import load_space
from tests.initial_recipe.drafts import draft, summary, times


@pytest.fixture(autouse=True)
def _on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasdeploy.initial_recipe.choices.has_gpu", lambda: False)


@pytest.mark.parametrize(
    ("side", "space", "size", "crop"),
    [
        (5, "digits", 8, "pad"),
        (8, "digits", 8, "pad"),
        (28, "cifar10", 28, "pad"),
        (32, "cifar10", 32, "pad"),
        (48, "cifar10", 48, "pad"),
        (64, "alphanet", 64, "random-resized"),
        (100, "alphanet", 96, "random-resized"),
        (224, "alphanet", 224, "random-resized"),
        (3000, "alphanet", 224, "random-resized"),
    ],
)
def test_the_space_follows_the_size_of_the_images(side: int, space: str, size: int, crop: str) -> None:
    found = shape_for(side)
    assert (found.space, found.size, found.augment.crop) == (space, size, crop)
    assert load_space(found.space, 2).name == space


def test_large_images_are_cropped_as_is_usual() -> None:
    assert shape_for(500).resize == 256


def test_epochs_fill_the_hours() -> None:
    folder = summary(train=10_000, test=1000)
    training = training_for(folder, shape_for(32), ImageTimes(0.001, 0.0006, 0.0001), hours=1.0)
    assert training.images == 9000
    assert training.epoch_s == pytest.approx(9)
    assert (training.epochs, training.growth) == (360, None)
    assert training_for(folder, shape_for(32), ImageTimes(0.003, 0.002, 0.001), hours=1.0).epochs == 133


def test_in_little_time_networks_grow_from_the_smallest() -> None:
    folder = summary(train=10_000, test=1000)
    # A random network takes 2 ms: a step of growing 0.2 x 5 + 0.8 x 2 + 1.
    found = training_for(folder, shape_for(32), ImageTimes(0.01, largest=0.005, smallest=0.001), hours=1.0)
    # 60 epochs of 9 s, and what is left of the hour in epochs of 32.4 s.
    assert found.growth == Growth(60, pytest.approx(9), 94, pytest.approx(32.4))
    assert found.epochs == 154
    assert found.epochs * found.epoch_s == pytest.approx(60 * 9 + 94 * 32.4)
    half = training_for(folder, shape_for(32), ImageTimes(0.01, largest=0.005, smallest=0.001), hours=0.1).growth
    # 55 % of six minutes; fewer images are held out, so that an epoch has 9,500.
    assert half is not None and (half.smallest, half.grown) == (20, 4)
    many = training_for(summary(train=50_000, test=1), shape_for(32), times(0.1), hours=0.1).growth
    assert many is not None and (many.smallest, many.grown) == (1, 1)


def test_images_for_testing_are_not_trained_on() -> None:
    assert training_for(summary(train=1000), shape_for(32), times(0.01), 1.0).images == 720


def test_epochs_have_bounds() -> None:
    assert training_for(summary(), shape_for(32), times(10.0), hours=0.1).epochs == 5
    assert training_for(summary(), shape_for(32), times(1e-6), hours=10.0).epochs == 360


def test_no_more_is_held_out_than_there_is_time_to_score() -> None:
    folder = summary(train=50_000, test=10_000)
    # 9 s for each of 100 networks, of which an image takes a twelfth of a step's: 2,700, and 2,048 for recalibration.
    short = training_for(folder, shape_for(32), times(0.04), hours=0.5)
    assert short.held_out == pytest.approx(652, abs=3)
    assert training_for(folder, shape_for(32), times(0.04), hours=10).holdout == 0.1
    assert training_for(folder, shape_for(32), times(0.4), hours=0.1).held_out == pytest.approx(500, abs=3)


def test_no_more_is_held_out_than_the_search_needs() -> None:
    training = training_for(summary(train=1_000_000, test=10), shape_for(224), times(0.001), 1.0)
    assert training.holdout == 0.01
    search = search_for(training, shape_for(224), 0.001, 1.0)
    assert (search.batch_size, search.batches) == (256, 32)


def test_with_time_enough_the_search_is_alphanets() -> None:
    search = draft(summary(), image_s=1e-5, hours=10).search
    assert (search.parents, search.rounds, search.evaluations) == (512, 20, 512 + 19 * 256)


@given(
    train=st.integers(4, 2_000_000),
    side=st.integers(1, 5000),
    image_s=st.floats(1e-6, 100),
    hours=st.floats(0.01, 1000),
)
def test_estimates_and_sizes_are_sensible(train: int, side: int, image_s: float, hours: float) -> None:
    found = draft(summary(train=train, side=side), image_s, hours)
    assert 8 <= found.training.batch_size <= 64
    assert found.training.epochs <= 5 or found.training_s <= 3600 * hours + 1e-6
    assert found.search.parents % 4 == 0
    assert 100 <= found.search.evaluations <= 512 + 19 * 256
    # Sizes of rounds are rounded up: by at most 44 evaluations in all.
    assert found.search.evaluations <= 144 or found.search_s <= 0.5 * 3600 * hours + 44 * found.search.evaluation_s
