"""Ways of predicting a whole network's latency that `bench_predictors.py` compares.

Each is fitted on measured networks and predicts others. The first ones are affine in a sum over keys, so that a search
could count and sample on them; the last ones do not add up and could only re-rank.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import KFold
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nasdeploy.core.arch import Arch
from nasdeploy.core.costs import Floats
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.calibration import fit


@dataclass(frozen=True)
class Networks:
    """Networks of a space, as the methods see them."""

    space: SearchSpace
    archs: Sequence[Arch]

    @cached_property
    def counts(self) -> Floats:
        """How often each key of the space runs, `[n, keys]`."""
        place = {key: number for number, key in enumerate(self.space.distinct_blocks())}
        found = np.zeros([len(self.archs), len(place)])
        for row, arch in zip(found, self.archs, strict=True):
            for part in self.space.plan(arch).parts:
                for step in part:
                    row[place[step.block.key]] += part.runs
        return found

    @cached_property
    def blocks(self) -> Floats:
        """Number of blocks `[n]`."""
        found: Floats = self.counts.sum(axis=1)
        return found

    @cached_property
    def params_of_keys(self) -> Floats:
        """Parameters of each block of the space, `[keys]`."""
        return np.array([float(block.params) for block in self.space.distinct_blocks().values()])

    def terms(self, entries: Floats) -> Floats:
        """Of the package's calibration, `[n, 3]`, with the given entries `[keys]`."""
        return np.stack([self.counts @ entries, self.blocks, self.counts @ self.params_of_keys], axis=1)

    @cached_property
    def macs_and_depth(self) -> Floats:
        """`[n, 2]`."""
        macs = [float(self.space.plan(arch).macs) for arch in self.archs]
        return np.stack([np.array(macs), self.blocks], axis=1)

    @cached_property
    def encoding(self) -> Floats:
        """Values of the choices scaled to 0..1, and which of them a present slot reads, `[n, features]`."""
        codes = self.space.encode(self.archs).astype(np.float64)
        return np.hstack([codes / np.maximum([len(c.values) - 1 for c in self.space.choices], 1), self.macs_and_depth])


Method = Callable[[Networks, Floats, Networks], Floats]
"""Predicted seconds `[m]` of the last networks, fitted on the first ones and their seconds `[n]`."""


def plain_sum(entries: Floats) -> Method:
    """The sum of the entries `[keys]`."""
    return lambda known, seconds, wanted: wanted.counts @ entries


def slope_and_offset(entries: Floats) -> Method:
    """Relative least squares with two terms."""

    def predict(known: Networks, seconds: Floats, wanted: Networks) -> Floats:
        columns = np.stack([known.counts @ entries, np.ones(len(seconds))], axis=1)
        terms, *_ = np.linalg.lstsq(columns / seconds[:, None], np.ones(len(seconds)), rcond=None)
        found: Floats = terms[0] * (wanted.counts @ entries) + terms[1]
        return found

    return predict


def calibrated(entries: Floats, used: Sequence[float] = (1.0, 1.0, 1.0)) -> Method:
    """What the package does: slope, cost of a block, cost of a parameter, and offset; terms `used` 0 are left out."""

    def predict(known: Networks, seconds: Floats, wanted: Networks) -> Floats:
        return fit(known.terms(entries) * used, seconds.tolist())(wanted.terms(entries) * used)

    return predict


def ridge(entries: Floats) -> Method:
    """Entries that may differ from these, calibrated, the less the stronger the penalty (by cross-validation)."""

    def predict(known: Networks, seconds: Floats, wanted: Networks) -> Floats:
        def solved(rows: "np.ndarray[Any, Any]", penalty: float, counts: Floats) -> Floats:
            calibration = fit(known.terms(entries)[rows], seconds[rows].tolist())
            each = calibration.per_block + calibration.per_param * known.params_of_keys
            prior = calibration.slope * entries + each
            weighted = known.counts[rows] * prior / seconds[rows, None]
            residuals = 1 - calibration.offset / seconds[rows] - weighted.sum(axis=1)
            # Relative changes of entries by the dual form: there are fewer networks than keys.
            gram = weighted @ weighted.T + penalty * np.eye(len(rows))
            changes = weighted.T @ np.linalg.solve(gram, residuals)
            found: Floats = counts @ (prior * (1 + changes)) + calibration.offset
            return found

        def error(penalty: float) -> float:
            folds = KFold(5, shuffle=True, random_state=0).split(seconds)
            errors = [solved(fit_, penalty, known.counts[out]) / seconds[out] - 1 for fit_, out in folds]
            return float(np.abs(np.concatenate(errors)).mean())

        best = min(np.geomspace(1e-4, 1e2, 13), key=error)
        return solved(np.arange(len(seconds)), best, wanted.counts)

    return predict


def macs_and_depth(known: Networks, seconds: Floats, wanted: Networks) -> Floats:
    """Linear regression on MACs and the number of blocks, on relative residuals."""
    model = LinearRegression().fit(known.macs_and_depth, seconds, sample_weight=seconds**-2)
    found: Floats = model.predict(wanted.macs_and_depth)
    return found


def learned(make: Callable[[], Any]) -> Method:
    """A regressor of scikit-learn on the logarithm of the latency, from the encoding, MACs and depth."""

    def predict(known: Networks, seconds: Floats, wanted: Networks) -> Floats:
        model = make_pipeline(StandardScaler(), make()).fit(known.encoding, np.log(seconds))
        found: Floats = np.exp(model.predict(wanted.encoding))
        return found

    return predict


def corrected(entries: Floats, make: Callable[[], Any]) -> Method:
    """What the package does, times a factor that a regressor has learned from its residuals."""
    base = calibrated(entries)

    def predict(known: Networks, seconds: Floats, wanted: Networks) -> Floats:
        factors = learned(make)(known, seconds / base(known, seconds, known), wanted)
        return base(known, seconds, wanted) * factors

    return predict


def gaussian_process() -> GaussianProcessRegressor:
    """With a noise term, so that it need not meet each measurement."""
    kernel = ConstantKernel(1.0) * RBF(5.0) + WhiteKernel(1e-3, (1e-7, 1.0))
    return GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=2, random_state=0)


def boosting() -> GradientBoostingRegressor:
    """Shallow trees: there are few networks."""
    return GradientBoostingRegressor(n_estimators=300, max_depth=3, learning_rate=0.05, subsample=0.8, random_state=0)


def perceptron() -> MLPRegressor:
    """Two small layers with weight decay."""
    return MLPRegressor(hidden_layer_sizes=(64, 64), alpha=1e-2, solver="lbfgs", max_iter=2000, random_state=0)


def methods(isolated: Floats, in_context: Floats | None) -> Mapping[str, Method]:
    """All of them by name; `in_context` are the entries `[keys]` from profiles of whole networks, if there are any."""
    found: dict[str, Method] = {
        "plain sum": plain_sum(isolated),
        "slope, offset": slope_and_offset(isolated),
        "slope, per block, offset": calibrated(isolated, (1.0, 1.0, 0.0)),
        "slope, per block and parameter, offset": calibrated(isolated),
        "ridge, isolated entries as prior": ridge(isolated),
    }
    if in_context is not None:
        found |= {
            "in-context entries, plain sum": plain_sum(in_context),
            "in-context entries, slope, offset": slope_and_offset(in_context),
            "in-context entries, the same terms": calibrated(in_context),
            "ridge, in-context entries as prior": ridge(in_context),
        }
    return {
        **found,
        "MACs and depth, linear": macs_and_depth,
        "learned: gradient boosting": learned(boosting),
        "learned: Gaussian process": learned(gaussian_process),
        "learned: perceptron": learned(perceptron),
        "these terms, Gaussian process on residuals": corrected(isolated, gaussian_process),
    }
