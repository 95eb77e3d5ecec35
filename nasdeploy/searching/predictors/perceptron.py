"""A small multi-layer perceptron on top of the linear model: the part of accuracy that is no sum over choices."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nasdeploy.core.costs import Floats
from nasdeploy.searching.predictors.models import LinearModel, Ridge, finite_arrays

_MEMBERS = 3
"""Perceptrons of different initial weights, whose mean errs less than each."""
_HIDDEN = 32
_PENALTY = 1.0
_ITERATIONS = 100


@dataclass(frozen=True)
class PerceptronModel:
    """A linear model plus the mean of `members` perceptrons with one hidden layer of ReLU units."""

    linear: LinearModel
    hidden: Floats
    """`[members, width, units]`."""
    hidden_offset: Floats
    """`[members, units]`."""
    output: Floats
    """`[members, units]`."""
    output_offset: Floats
    """`[members]`."""

    def __post_init__(self) -> None:
        members, width, units = self.hidden.shape
        shapes = (self.hidden_offset.shape, self.output.shape, self.output_offset.shape, self.linear.weights.shape)
        if shapes != ((members, units), (members, units), (members,), (width,)):
            raise ValueError(f"shapes of a perceptron do not fit: {self.hidden.shape}, {shapes}")

    def __call__(self, features: Floats) -> Floats:
        """Accuracies `[n]` for features `[n, width]`."""
        activations = np.maximum(features @ self._weights + self.hidden_offset.reshape(-1), 0.0)
        residual = (activations @ self.output.reshape(-1) + self.output_offset.sum()) / len(self.output)
        found: Floats = self.linear(features) + residual
        return found

    def gradient(self, features: Floats) -> Floats:
        """Return what accuracies change by `[n, width]` with each of the features `[n, width]`."""
        active = features @ self._weights + self.hidden_offset.reshape(-1) > 0
        found: Floats = self.linear.weights + (active * self.output.reshape(-1)) @ self._weights.T / len(self.output)
        return found

    @property
    def _weights(self) -> Floats:
        """The hidden weights `[width, members * units]` of all members, for one matrix product."""
        members, width, units = self.hidden.shape
        return self.hidden.transpose(1, 0, 2).reshape(width, members * units)

    @property
    def arrays(self) -> Mapping[str, Floats]:
        """Everything that it knows."""
        own = {name: values for name, values in vars(self).items() if name != "linear"}
        return {**self.linear.arrays, **own}


class Perceptron:
    """Ridge regression, then scikit-learn's `MLPRegressor` several times on what it leaves."""

    def fit(self, features: Floats, accuracies: Floats, rng: np.random.Generator) -> PerceptronModel:
        """The model for features `[n, width]` and accuracies `[n]`."""
        linear = Ridge().fit(features, accuracies, rng)
        left = accuracies - linear(features)
        # Targets of about 1 are what the penalty is meant for.
        scale = float(left.std())
        members = [_member(features, left / (scale or 1.0), int(seed)) for seed in rng.integers(2**31, size=_MEMBERS)]
        hidden, hidden_offset, output, output_offset = (np.stack(part) for part in zip(*members, strict=True))
        return PerceptronModel(linear, hidden, hidden_offset, output * scale, output_offset * scale)

    def restore(self, arrays: Mapping[str, Floats]) -> PerceptronModel:
        """The model with these `arrays`; raises `ValueError` if they are not those of this kind."""
        own = ("hidden", "hidden_offset", "output", "output_offset")
        found = finite_arrays(arrays, "weights", "offset", *own)
        if found["hidden"].ndim != 3:
            raise ValueError(f"hidden weights of shape {found['hidden'].shape}")
        return PerceptronModel(LinearModel(found["weights"], found["offset"]), *(found[name] for name in own))


def _member(features: Floats, targets: Floats, seed: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Weights `[width, units]` and offsets `[units]` of the hidden layer, `[units]` and `[]` of what comes after it."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPRegressor

    perceptron = MLPRegressor(
        hidden_layer_sizes=(_HIDDEN,), solver="lbfgs", alpha=_PENALTY, max_iter=_ITERATIONS, random_state=seed
    )
    with warnings.catch_warnings():
        # That it could still be improved is no reason to say so each time.
        warnings.simplefilter("ignore", ConvergenceWarning)
        perceptron.fit(features, targets)
    (hidden, output), (hidden_offset, output_offset) = perceptron.coefs_, perceptron.intercepts_
    return hidden, hidden_offset, output[:, 0], output_offset[0]
