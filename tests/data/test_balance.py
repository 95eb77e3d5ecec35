from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from nasdeploy.core.randomness import generator
from nasdeploy.data.batches import TrainingBatches, balanced_draws, calibration_batches, class_weights
from nasdeploy.data.settings import AugmentSettings, DataSettings
from tests.data.arrays import noise_images

DATA = DataSettings(kind="digits", size=8, augment=AugmentSettings(crop="pad", pad=1), workers=0)
BALANCED = DATA.model_copy(update={"balance": "sampling"})


def test_weights_are_those_of_scikit_learn_with_a_mean_of_1() -> None:
    labels = np.repeat([0, 1, 2], [50, 7, 3])
    found = class_weights(labels, 3)
    assert np.allclose(found, compute_class_weight("balanced", classes=np.arange(3), y=labels))
    assert found[labels].mean() == pytest.approx(1.0)


def test_a_class_without_images_has_no_weight() -> None:
    found = class_weights(np.array([0, 0, 2]), 4)
    assert found.tolist() == [0.75, 0.0, 1.5, 0.0]


def test_each_class_is_drawn_as_often_and_each_of_its_images_too() -> None:
    labels = np.repeat([0, 1, 3], [6000, 3000, 30])
    drawn = balanced_draws(labels, np.random.default_rng(0))
    counts = np.bincount(labels[drawn], minlength=4)
    # Five standard deviations of a binomial of 9030 draws with a chance of 1/3: 224.
    assert np.abs(counts[[0, 1, 3]] - 3010).max() < 224
    assert counts[2] == 0
    of_rare = Counter(drawn[drawn >= 9000].tolist())
    assert len(of_rare) == 30
    assert max(of_rare.values()) < 160


def test_without_balancing_the_order_is_a_permutation_of_all_images() -> None:
    images = noise_images([30, 4])
    order = TrainingBatches(images, DATA, 1, 3).order(2)
    assert np.array_equal(order, generator(3, "order", 2).permutation(34))
    weighed = TrainingBatches(images, DATA.model_copy(update={"balance": "loss"}), 1, 3).order(2)
    assert np.array_equal(order, weighed)


def test_balanced_epochs_are_as_long_and_follow_the_seed() -> None:
    images = noise_images([90, 6])
    batches = list(TrainingBatches(images, BALANCED, 8, 0).epoch(0))
    assert len(batches) == 12
    labels = torch.cat([y for _, y in batches])
    assert 30 < int(labels.sum()) < 66
    orders = [TrainingBatches(images, BALANCED, 1, seed).order(epoch).tobytes() for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    rest = list(TrainingBatches(images, BALANCED, 8, 0).epoch(0, start=9))
    for one, other in zip(batches[9:], rest, strict=True):
        assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])
    halves = [list(TrainingBatches(images, BALANCED, 8, 0, part=(place, 2)).epoch(0)) for place in (0, 1)]
    assert torch.equal(batches[0][0], torch.stack([halves[0][0][0], halves[1][0][0]], dim=1).flatten(0, 1))


def test_an_image_that_comes_again_is_augmented_anew() -> None:
    images = noise_images([60, 1])
    batches = list(TrainingBatches(images, BALANCED, 61, 0).epoch(0))
    rare = batches[0][0][batches[0][1] == 1]
    assert len(rare) > 15
    # Nine crops, each of them flipped or not.
    assert len({x.numpy().tobytes() for x in rare}) > 8


def test_calibration_images_are_drawn_as_in_training() -> None:
    pixels = np.concatenate([np.full((200, 8, 8, 3), 250, np.uint8), np.full((8, 8, 8, 3), 5, np.uint8)])
    images = noise_images([200, 8])
    images.pixels[:] = pixels
    settings = BALANCED.model_copy(update={"augment": AugmentSettings(crop="none")})
    (batch,) = calibration_batches(images, settings, 200, 1, seed=0)
    assert 60 < int((batch[:, 0, 0, 0] < 0).sum()) < 140
