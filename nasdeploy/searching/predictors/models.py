"""Models of accuracy on one-hot choices: fitted with scikit-learn, kept as arrays, computed with NumPy. Torch-free."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nasdeploy.core.costs import Floats
from nasdeploy.core.space import Codes, SearchSpace


class Model(Protocol):
    """A fitted model."""

    def __call__(self, features: Floats) -> Floats:
        """Accuracies `[n]` for features `[n, width]`."""

    def gradient(self, features: Floats) -> Floats:
        """Return what accuracies change by `[n, width]` with each of the features `[n, width]`."""

    @property
    def arrays(self) -> Mapping[str, Floats]:
        """Everything that it knows."""


class Kind(Protocol):
    """One kind of model."""

    @property
    def features(self) -> Callable[[SearchSpace], "OneHot"]:
        """What makes the features of a space's codes that it is fitted on."""

    def fit(self, features: Floats, accuracies: Floats, rng: np.random.Generator) -> Model:
        """The model for features `[n, width]` and accuracies `[n]`."""

    def restore(self, arrays: Mapping[str, Floats]) -> Model:
        """The model with these `arrays`; raises `ValueError` if they are not those of this kind."""


class OneHot:
    """One column for each value of each choice of a space, 1 where an architecture has it."""

    def __init__(self, space: SearchSpace) -> None:
        sizes = [len(choice.values) for choice in space.choices]
        self.width = sum(sizes)
        self._first = np.cumsum([0, *sizes[:-1]])

    def parts(self, columns: Floats) -> list[Floats]:
        """One array `[values]` for each choice, of columns `[width]`."""
        return np.split(columns, self._first[1:])

    def __call__(self, codes: Codes) -> Floats:
        """Features `[n, width]` of codes `[n, choices]`."""
        features = np.zeros((len(codes), self.width))
        features[np.arange(len(codes))[:, None], self._first + codes] = 1.0
        return features


class PresentOneHot(OneHot):
    """One-hot columns, all 0 for a choice that no present slot reads: a block that is left out has no kernel."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space)
        self._space, self._sizes = space, [len(choice.values) for choice in space.choices]

    def __call__(self, codes: Codes) -> Floats:
        """Features `[n, width]` of codes `[n, choices]`."""
        return super().__call__(codes) * np.repeat(self._space.read(codes), self._sizes, axis=1)


@dataclass(frozen=True)
class LinearModel:
    """`features @ weights + offset`: on one-hot choices a term for each choice. With weights of 0 the mean."""

    weights: Floats
    """`[width]`."""
    offset: Floats
    """`[]`."""

    def __post_init__(self) -> None:
        if self.weights.ndim != 1 or self.offset.ndim != 0:
            raise ValueError(f"a linear model has weights [width] and an offset [], not {self}")

    def __call__(self, features: Floats) -> Floats:
        """Accuracies `[n]` for features `[n, width]`."""
        found: Floats = features @ self.weights + self.offset
        return found

    def gradient(self, features: Floats) -> Floats:
        """Return the weights `[n, width]`, whatever the features `[n, width]`."""
        return np.broadcast_to(self.weights, features.shape)

    @property
    def arrays(self) -> Mapping[str, Floats]:
        """Everything that it knows."""
        return {"weights": self.weights, "offset": self.offset}


class Mean:
    """The mean of the accuracies, whatever the features: what any predictor has to beat."""

    features = OneHot

    def fit(self, features: Floats, accuracies: Floats, rng: np.random.Generator) -> LinearModel:
        """The model for features `[n, width]` and accuracies `[n]`."""
        return LinearModel(np.zeros(features.shape[1]), np.array(accuracies.mean()))

    def restore(self, arrays: Mapping[str, Floats]) -> LinearModel:
        """The model with these `arrays`; raises `ValueError` if they are not those of this kind."""
        return LinearModel(**finite_arrays(arrays, "weights", "offset"))


class Ridge:
    """Linear least squares with an L2 penalty, whose strength leave-one-out cross-validation chooses."""

    features = OneHot

    def fit(self, features: Floats, accuracies: Floats, rng: np.random.Generator) -> LinearModel:
        """The model for features `[n, width]` and accuracies `[n]`."""
        # Not needed, and a second to import, where a stored model is used.
        from sklearn.linear_model import RidgeCV

        found = RidgeCV(alphas=np.logspace(-2, 3, 11)).fit(features, accuracies)
        return LinearModel(np.array(found.coef_, dtype=np.float64), np.array(float(found.intercept_)))

    def restore(self, arrays: Mapping[str, Floats]) -> LinearModel:
        """The model with these `arrays`; raises `ValueError` if they are not those of this kind."""
        return LinearModel(**finite_arrays(arrays, "weights", "offset"))


def finite_arrays(arrays: Mapping[str, Floats], *names: str) -> dict[str, Floats]:
    """The arrays of a model; raises `ValueError` unless they have these names and hold finite numbers."""
    if set(arrays) != set(names):
        raise ValueError(f"arrays {', '.join(sorted(arrays))} instead of {', '.join(sorted(names))}")
    for name, values in arrays.items():
        if values.dtype != np.float64 or not np.isfinite(values).all():
            raise ValueError(f"{name} holds something else than finite numbers in float64")
    return dict(arrays)


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

    features = OneHot

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
