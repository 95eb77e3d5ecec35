from collections import Counter

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from nasdeploy.core.errors import UserError
from nasdeploy.data.images import ArrayImages, ImageSets
from nasdeploy.data.inventory import OpenedData
from nasdeploy.data.settings import DataSettings
from nasdeploy.data.split import some_of_each, split_sets, stratified
from tests.data.arrays import noise_images

counts = st.lists(st.integers(2, 30), min_size=1, max_size=5)


def labels_of(counts: list[int]) -> list[int]:
    return [label for label, count in enumerate(counts) for _ in range(count)]


@examples(deadline=None)
@given(counts=counts, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 2**31))
def test_a_split_is_stratified_and_complete(counts: list[int], fraction: float, seed: int) -> None:
    labels = labels_of(counts)
    rest, part = stratified(labels, fraction, seed, "test")
    assert sorted(rest + part) == list(range(len(labels)))
    assert (rest, part) == stratified(labels, fraction, seed, "test")
    taken = Counter(labels[i] for i in part)
    for label, count in enumerate(counts):
        assert 1 <= taken[label] <= count - 1
        assert abs(taken[label] - fraction * count) <= 1


def test_other_seeds_and_purposes_split_differently() -> None:
    labels = labels_of([50, 50])
    splits = [stratified(labels, 0.3, seed, purpose)[1] for seed in (0, 1) for purpose in ("test", "search")]
    assert len({tuple(part) for part in splits}) == 4


def test_a_class_is_split_the_same_whatever_the_other_classes_hold() -> None:
    small, large = (stratified(labels_of([40, n]), 0.25, 0, "test")[1] for n in (10, 20))
    assert [i for i in small if i < 40] == [i for i in large if i < 40]


@given(counts=counts, wanted=st.integers(1, 40))
def test_some_of_each_class(counts: list[int], wanted: int) -> None:
    labels = labels_of(counts)
    chosen = Counter(labels[i] for i in some_of_each(labels, wanted, 0))
    assert chosen == {label: min(count, wanted) for label, count in enumerate(counts)}


SETTINGS = DataSettings(kind="digits", size=8, holdout=0.25, test=0.2)


def image_sets(classes: list[str], settings: DataSettings = SETTINGS, **parts: ArrayImages) -> ImageSets:
    data = OpenedData.of_arrays(tuple(classes), parts)
    return split_sets(data, settings, seed=0)


def test_sets_are_disjoint_and_complete() -> None:
    sets = image_sets(["a", "b"], train=noise_images([20, 40]))
    parts = [sets.train, sets.search, sets.test]
    seen = [part.image(i).tobytes() for part in parts for i in range(len(part))]
    assert len(set(seen)) == len(seen) == 60
    assert [Counter(part.labels) for part in parts] == [{0: 12, 1: 24}, {0: 4, 1: 8}, {0: 4, 1: 8}]
    assert sets.val is sets.search


def test_given_parts_are_kept_and_few_images_can_be_asked_for() -> None:
    val, test = noise_images([1, 1]), noise_images([2, 1])
    settings = SETTINGS.model_copy(update={"images_per_class": 8})
    sets = image_sets(["a", "b"], settings, train=noise_images([20, 40]), val=val, test=test)
    assert (sets.val, sets.test) == (val, test)
    assert (len(sets.train), len(sets.search)) == (12, 4)


@pytest.mark.parametrize(
    ("counts", "classes", "message"),
    [
        ([5], ["a"], "only one class"),
        ([5, 2], ["a", "b"], "class 'b' has 2 images; at least 3"),
        ([1, 5], ["a", "b"], "class 'a' has 1 image; at least 3"),
        ([5], ["a", "b"], "class 'b' has 0 images"),
    ],
)
def test_too_few(counts: list[int], classes: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        image_sets(classes, train=noise_images(counts))


def test_an_empty_test_part_is_refused() -> None:
    with pytest.raises(UserError, match="no readable images in the test part"):
        image_sets(["a", "b"], train=noise_images([5, 5]), test=noise_images([0, 0]))
