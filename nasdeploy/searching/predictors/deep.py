"""Once-for-all's model of accuracy (section 4.1): three hidden layers of 400 ReLU units on one-hot choices. Torch-free.

All columns are 0 of a choice of a block that is left out. How it was trained is not published. Here it is by L-BFGS as
the smaller ones are: fitted on 200 networks of once-for-all's space with made-up accuracies it ranks others with
Kendall's tau 0.62 to 0.66 (by 150 steps of Adam 0.47), fitted on 1,000 with 0.87 (0.86), in up to twice the time.
`tests/benchmarks/bench_ofa_table.py` compares it with the smaller ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nasdeploy.core.costs import Floats
from nasdeploy.searching.predictors.models import PresentOneHot, finite_arrays

_LAYERS, _UNITS = 3, 400
_PENALTY = 0.04
"""The weight of the weights' squares beside the mean squared error. With 0.08 all weights fell to 0."""
_ITERATIONS = 60


@dataclass(frozen=True)
class DeepPerceptronModel:
    """A perceptron with several hidden layers of as many ReLU units each."""

    weights: Floats
    """`[width, units]`, of the first hidden layer."""
    hidden: Floats
    """`[layers - 1, units, units]`, of the others."""
    offsets: Floats
    """`[layers, units]`."""
    output: Floats
    """`[units]`."""
    output_offset: Floats
    """`[]`."""

    def __post_init__(self) -> None:
        layers, units = self.offsets.shape if self.offsets.ndim == 2 else (0, 0)
        shapes = (self.weights.shape[1:], self.hidden.shape, self.output.shape, self.output_offset.shape)
        if self.weights.ndim != 2 or shapes != ((units,), (layers - 1, units, units), (units,), ()):
            raise ValueError(f"shapes of a perceptron do not fit: {self.weights.shape}, {self.offsets.shape}, {shapes}")

    def __call__(self, features: Floats) -> Floats:
        """Accuracies `[n]` for features `[n, width]`."""
        found: Floats = self._activations(features)[-1] @ self.output + self.output_offset
        return found

    def gradient(self, features: Floats) -> Floats:
        """Return what accuracies change by `[n, width]` with each of the features `[n, width]`."""
        *before, last = self._activations(features)
        gradient: Floats = (last > 0) * self.output
        for activations, weights in zip(reversed(before), reversed(self.hidden), strict=True):
            gradient = (activations > 0) * (gradient @ weights.T)
        found: Floats = gradient @ self.weights.T
        return found

    def _activations(self, features: Floats) -> list[Floats]:
        """Return the activations of each hidden layer, `[n, units]`."""
        found = [np.maximum(features @ self.weights + self.offsets[0], 0.0)]
        for weights, offsets in zip(self.hidden, self.offsets[1:], strict=True):
            found.append(np.maximum(found[-1] @ weights + offsets, 0.0))
        return found

    @property
    def arrays(self) -> Mapping[str, Floats]:
        """Everything that it knows."""
        return vars(self)


class DeepPerceptron:
    """Scikit-learn's `MLPRegressor` on accuracies less their mean, in units of their deviation."""

    features = PresentOneHot

    def fit(self, features: Floats, accuracies: Floats, rng: np.random.Generator) -> DeepPerceptronModel:
        """The model for features `[n, width]` and accuracies `[n]`."""
        import warnings

        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPRegressor

        mean, scale = float(accuracies.mean()), float(accuracies.std())
        perceptron = MLPRegressor(
            hidden_layer_sizes=(_UNITS,) * _LAYERS,
            solver="lbfgs",
            alpha=_PENALTY * len(features),
            max_iter=_ITERATIONS,
            random_state=int(rng.integers(2**31)),
        )
        with warnings.catch_warnings():
            # It is trained for as long as it is meant to be.
            warnings.simplefilter("ignore", ConvergenceWarning)
            perceptron.fit(features.astype(np.float32), ((accuracies - mean) / (scale or 1.0)).astype(np.float32))
        first, *hidden, output = (weights.astype(np.float64) for weights in perceptron.coefs_)
        *offsets, last = (each.astype(np.float64) for each in perceptron.intercepts_)
        offset = np.array(mean + scale * last[0])
        return DeepPerceptronModel(first, np.stack(hidden), np.stack(offsets), scale * output[:, 0], offset)

    def restore(self, arrays: Mapping[str, Floats]) -> DeepPerceptronModel:
        """The model with these `arrays`; raises `ValueError` if they are not those of this kind."""
        return DeepPerceptronModel(**finite_arrays(arrays, "weights", "hidden", "offsets", "output", "output_offset"))
