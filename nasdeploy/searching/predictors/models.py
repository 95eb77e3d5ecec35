"""Models of accuracy: fitted with scikit-learn, kept as arrays, computed with NumPy alone. Torch-free."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nasdeploy.core.costs import Floats


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

    def fit(self, features: Floats, accuracies: Floats, rng: np.random.Generator) -> Model:
        """The model for features `[n, width]` and accuracies `[n]`."""

    def restore(self, arrays: Mapping[str, Floats]) -> Model:
        """The model with these `arrays`; raises `ValueError` if they are not those of this kind."""


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

    def fit(self, features: Floats, accuracies: Floats, rng: np.random.Generator) -> LinearModel:
        """The model for features `[n, width]` and accuracies `[n]`."""
        return LinearModel(np.zeros(features.shape[1]), np.array(accuracies.mean()))

    def restore(self, arrays: Mapping[str, Floats]) -> LinearModel:
        """The model with these `arrays`; raises `ValueError` if they are not those of this kind."""
        return LinearModel(**finite_arrays(arrays, "weights", "offset"))


class Ridge:
    """Linear least squares with an L2 penalty, whose strength leave-one-out cross-validation chooses."""

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
