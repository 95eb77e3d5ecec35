"""Models of accuracy: computed with NumPy as scikit-learn does, and as good as they should be."""

from functools import cache

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeCV

from nasdeploy.searching.predictors import KINDS
from nasdeploy.searching.predictors.models import LinearModel, OneHot, PerceptronModel
from nasdeploy.spaces import load_space

SPACE = load_space("digits", 10)
RNG = np.random.default_rng(0)
CODES = SPACE.sample_codes(300, RNG)
FEATURES = OneHot(SPACE)(CODES)
ADDITIVE = 0.8 + FEATURES @ RNG.normal(scale=0.02, size=FEATURES.shape[1])
INTERACTION = 0.05 * (CODES[:, 1] != CODES[:, 2])


def rmse(model, accuracies):
    return float(np.sqrt(np.mean((model(FEATURES[200:]) - accuracies[200:]) ** 2)))


def fitted_anew(kind, accuracies):
    return KINDS[kind].fit(FEATURES[:200], accuracies[:200], np.random.default_rng(0))


def fit(kind, accuracies):
    return _fitted(kind, accuracies.tobytes())


@cache
def _fitted(kind, accuracies):
    return fitted_anew(kind, np.frombuffer(accuracies))


def test_mean_is_the_mean():
    assert fit("mean", ADDITIVE)(FEATURES).tolist() == pytest.approx([ADDITIVE[:200].mean()] * 300)


def test_linear_computes_what_scikit_learn_does():
    reference = RidgeCV(alphas=np.logspace(-2, 3, 11)).fit(FEATURES[:200], ADDITIVE[:200])
    assert fit("linear", ADDITIVE)(FEATURES) == pytest.approx(reference.predict(FEATURES), rel=1e-12)


def test_linear_finds_a_sum_over_choices():
    assert rmse(fit("linear", ADDITIVE), ADDITIVE) < 0.02 * ADDITIVE.std()


def test_a_perceptron_finds_an_interaction_that_is_no_sum():
    accuracies = ADDITIVE + INTERACTION
    linear, perceptron, deep = (rmse(fit(kind, accuracies), accuracies) for kind in ("linear", "mlp", "deep-mlp"))
    assert perceptron < 0.6 * linear
    assert deep < 0.8 * linear


def test_a_perceptron_is_its_linear_part_and_the_mean_of_its_members():
    linear = LinearModel(np.array([0.5, 0.25]), np.array(0.1))
    hidden = np.array([[[1.0], [-1.0]], [[2.0], [0.0]]])
    model = PerceptronModel(linear, hidden, np.array([[0.0], [1.0]]), np.array([[0.1], [0.2]]), np.array([0.0, 0.5]))
    first, second = 0.1 * 1.0, 0.2 * (2.0 + 1.0) + 0.5
    assert model(np.array([[1.0, 0.0]])) == pytest.approx([0.5 + 0.1 + (first + second) / 2])


def test_a_deep_perceptron_is_once_for_alls_and_computes_what_pytorch_does():
    model = fit("deep-mlp", ADDITIVE + INTERACTION)
    (first, *hidden), units = (model.weights, *model.hidden), 400
    assert (first.shape, [each.shape for each in hidden]) == ((FEATURES.shape[1], units), [(units, units)] * 2)
    layers = [torch.nn.Linear(*weights.shape).double() for weights in (first, *hidden, model.output[:, None])]
    offsets = (*model.offsets, model.output_offset[None])
    with torch.no_grad():
        for layer, weights, offset in zip(layers, (first, *hidden, model.output[:, None]), offsets, strict=True):
            layer.weight.copy_(torch.from_numpy(weights.T))
            layer.bias.copy_(torch.from_numpy(offset))
    network = torch.nn.Sequential(*(each for layer in layers[:-1] for each in (layer, torch.nn.ReLU())), layers[-1])
    x = torch.from_numpy(FEATURES[:20]).requires_grad_()
    y = network(x)[:, 0]
    y.sum().backward()
    np.testing.assert_allclose(model(FEATURES[:20]), y.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(model.gradient(FEATURES[:20]), x.grad.numpy(), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_its_arrays(kind):
    model = fit(kind, ADDITIVE + INTERACTION)
    assert (KINDS[kind].restore(model.arrays)(FEATURES) == model(FEATURES)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_generator_gives_the_same_model(kind):
    accuracies = ADDITIVE + INTERACTION
    assert (fit(kind, accuracies)(FEATURES) == fitted_anew(kind, accuracies)(FEATURES)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_equal_accuracies_are_predicted(kind):
    assert fit(kind, np.full(300, 0.5))(FEATURES) == pytest.approx(np.full(300, 0.5), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_other_arrays_are_refused(kind):
    arrays = dict(fit(kind, ADDITIVE).arrays)
    for wrong in (
        {},
        {**arrays, "more": np.zeros(1)},
        {**arrays, "weights": np.full_like(arrays["weights"], np.nan)},
        {**arrays, "weights": arrays["weights"].astype(np.float32)},
        {**arrays, "weights": np.zeros((2, 2))},
    ):
        with pytest.raises(ValueError, match=r"arrays|numbers|model|shapes"):
            KINDS[kind].restore(wrong)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_gradients_against_finite_differences(kind: str) -> None:
    model, rng = fit(kind, ADDITIVE + INTERACTION), np.random.default_rng(1)
    # Between architectures, where no unit of the perceptron is at its kink.
    features = rng.random((4, FEATURES.shape[1]))
    found = model.gradient(features)
    for column in range(features.shape[1]):
        step = np.zeros_like(features)
        step[:, column] = 1e-6
        change = (model(features + step) - model(features - step)) / 2e-6
        assert found[:, column] == pytest.approx(change, abs=1e-6)
