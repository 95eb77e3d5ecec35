"""Scores of classifiers against NumPy, and their standard error against a binomial's."""

from math import isnan, sqrt

import numpy as np
import pytest
import torch

from nasdeploy.core.score import proportion
from nasdeploy.tasks.image_data import score_of
from nasdeploy.tasks.metrics import TOP1


@pytest.mark.parametrize(("right", "images"), [(0, 10), (1, 10), (5, 10), (10, 10), (970, 1000)])
def test_standard_error_of_top1(right: int, images: int) -> None:
    share = (right + 1) / (images + 2)
    error = proportion(TOP1, right, images, 0.0).error
    assert error == pytest.approx(sqrt(share * (1 - share) / images))
    assert error > 0


def test_the_standard_error_is_the_spread_of_repeated_measurements() -> None:
    shares = np.random.default_rng(0).binomial(400, 0.9, size=20_000) / 400
    assert proportion(TOP1, 360, 400, 0.0).error == pytest.approx(shares.std(), rel=0.03)


def test_top1_and_cross_entropy_count_images_not_batches() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(10, 4)), rng.integers(4, size=10)
    batches = [((torch.tensor(logits[a:b]).float(),), torch.tensor(labels[a:b])) for a, b in ((0, 4), (4, 8), (8, 10))]
    found = score_of(lambda inputs: inputs[0], batches)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert found.samples == 10
    assert found.value == (logits.argmax(1) == labels).mean()
    assert found.loss == pytest.approx(-np.log(probabilities[range(10), labels]).mean(), rel=1e-5)


def test_logits_that_are_no_numbers_count_as_wrong() -> None:
    logits = torch.tensor([[1.0, 0.0], [float("nan"), 0.0], [float("inf"), 0.0], [0.0, 1.0]])
    found = score_of(lambda inputs: inputs[0], [((logits,), torch.tensor([0, 0, 0, 0]))])
    assert found.value == 0.25
    assert isnan(found.loss)


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="no images"):
        score_of(lambda inputs: inputs[0], [])
