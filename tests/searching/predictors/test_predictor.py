"""Predictors and what is said of them."""

from itertools import combinations

import numpy as np
import pytest

from nasdeploy.core.errors import UserError
from nasdeploy.searching.predictors.predictor import fit, fit_predictor, quality_of
from nasdeploy.spaces import load_space
from tests.small_spaces import ofa

SPACE = load_space("digits", 10)
CODES = SPACE.sample_codes(60, np.random.default_rng(0))
ACCURACIES = 0.9 + 0.01 * CODES.sum(axis=1) / CODES.shape[1]


def fitted(kind="linear", accuracies=ACCURACIES, count=60):
    return fit_predictor(SPACE, kind, CODES[:count], accuracies[:count], np.random.default_rng(0))


def test_quality_by_definition():
    rng = np.random.default_rng(0)
    predicted, true = rng.random(30), rng.random(30)
    pairs = list(combinations(range(30), 2))
    signs = [np.sign((predicted[i] - predicted[j]) * (true[i] - true[j])) for i, j in pairs]
    quality = quality_of(predicted, true)
    assert quality.tau == pytest.approx(sum(signs) / len(pairs))
    assert quality.rmse == pytest.approx(np.mean([(p - t) ** 2 for p, t in zip(predicted, true, strict=True)]) ** 0.5)
    assert quality.n == 30


def test_a_constant_ranks_nothing():
    assert quality_of(np.full(5, 0.9), np.arange(5.0)).tau == 0


def test_a_fifth_is_held_out_and_simpler_predictors_are_judged_too():
    found = fitted("mlp")
    assert list(found.quality) == ["mean", "linear", "mlp"]
    assert {quality.n for quality in found.quality.values()} == {12}
    assert found.quality["linear"].rmse < 0.2 * found.quality["mean"].rmse
    assert found.quality["linear"].tau > 0.8


def test_what_is_said_before_a_predictor_is_used():
    found = fitted()
    linear, mean = found.quality["linear"], found.quality["mean"]
    assert str(found) == (
        "accuracy predictor (linear) from 60 networks, on 12 of them held out: "
        f"RMSE {100 * linear.rmse:.2f} points, Kendall tau {linear.tau:.3f}; "
        f"mean: RMSE {100 * mean.rmse:.2f} points, Kendall tau 0.000"
    )


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_codes_of_the_same_network_are_predicted_alike(kind):
    space = ofa()
    codes = space.sample_codes(60, np.random.default_rng(0))
    predictor = fit(space, kind, space.canonical(codes), codes.sum(axis=1) / 20, np.random.default_rng(0))
    assert (space.canonical(codes) != codes).any()
    assert (predictor(codes) == predictor(space.canonical(codes))).all()


def test_the_part_held_out_is_not_learned():
    noise = np.random.default_rng(1).random(60)
    assert fitted("mlp", noise).quality["mlp"].rmse > 0.5 * noise.std()


def test_too_few_networks():
    with pytest.raises(UserError, match=r"^accuracy predictor: 9 evaluated networks are too few, it takes 10; raise "):
        fitted(count=9)


def test_an_accuracy_that_is_no_number():
    accuracies = ACCURACIES.copy()
    accuracies[3] = np.nan
    with pytest.raises(UserError, match=r"^accuracy predictor: an accuracy is no number; evaluate that network again$"):
        fitted(accuracies=accuracies)
