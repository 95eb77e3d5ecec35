"""From the sum of a network's table entries to its latency: an affine map, fitted on whole networks, and its error.

A network is not the sum of its blocks: each call of a runtime costs something once, and blocks measured alone pay for
it every time. Hence a constant and the number of blocks beside the sum of entries. And a block that is measured alone
finds its weights in the processor's cache, from which a whole network's have driven each other: hence the number of
parameters.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise
from math import inf

import numpy as np

from nasdeploy.core.costs import Floats

_NOISE = 0.02
"""Relative residual that two measurements of one network may well show."""


@dataclass(frozen=True)
class Calibration:
    """`latency = slope * entries + per_block * blocks + per_param * parameters + offset`, in seconds.

    Raises `ValueError` for a negative slope, or negative seconds for a parameter.
    """

    slope: float
    per_block: float
    per_param: float
    offset: float

    def __post_init__(self) -> None:
        if min(self.slope, self.per_param) < 0:
            raise ValueError(f"a network gets no faster by slower blocks or by more parameters; found {self}")

    def __call__(self, terms: Floats) -> Floats:
        """Latencies `[n]` of networks, given sums of entries, numbers of blocks, and of parameters, `[n, 3]`."""
        latencies: Floats = terms @ np.array([self.slope, self.per_block, self.per_param]) + self.offset
        return latencies

    def scaled(self, factor: float) -> "Calibration":
        """That of latencies `factor` times as long."""
        return Calibration(*(factor * term for term in astuple(self)))


def fit(terms: Floats, seconds: Sequence[float], per_param: float | None = None) -> Calibration:
    """The calibration of networks with these terms `[n, 3]`, in the order of `Calibration`, and seconds `[n]`.

    Least squares on relative residuals with soft L1 loss, slope and seconds for a parameter not negative. Residuals
    beyond 2 % count linearly, so that a network that was measured in a bad moment does not tilt the fit. With fewer
    networks than terms, or all of one depth, the solution is close to the plain sum. `per_param` is found unless given.
    """
    from scipy.optimize import least_squares, lsq_linear

    measured = np.array(seconds, dtype=np.float64)
    columns = np.column_stack([terms, np.ones(len(measured))]) / measured[:, None]
    given = np.array([0.0, 0.0, per_param or 0.0, 0.0])
    # What the latency differs from the plain sum by, which makes the plain sum the solution of least norm.
    target = 1 - columns @ (_PLAIN_SUM + given)
    if per_param is not None:
        columns[:, 2] = 0.0
    largest = np.abs(columns).max(axis=0)
    scale = 1 / np.where(largest > 0, largest, 1.0)
    matrix, lower = columns * scale, _LOWER / scale
    start = lsq_linear(matrix, target, (lower, np.inf), method="bvls").x
    found = least_squares(
        lambda x: matrix @ x - target,
        start,
        jac=lambda x: matrix,
        bounds=(lower, np.inf),
        loss="soft_l1",
        f_scale=_NOISE,
        xtol=_TOLERANCE,
        ftol=_TOLERANCE,
        gtol=_TOLERANCE,
    )
    # The solver moves a term that nothing depends on away from its bound.
    changes = np.where(largest > 0, found.x * scale, 0.0)
    slope, per_block, for_param, offset = (float(value) for value in _PLAIN_SUM + given + changes)
    return Calibration(max(slope, 0.0), per_block, max(for_param, 0.0), offset)


_TOLERANCE = 1e-12
_PLAIN_SUM = np.array([1.0, 0.0, 0.0, 0.0])
_LOWER = np.array([-1.0, -np.inf, 0.0, -np.inf])
"""Of the difference to the plain sum: a slope of 0, and no seconds for a parameter."""


@dataclass(frozen=True)
class HeldOut:
    """Relative errors of predictions for networks that were not used for fitting."""

    n: int
    mean_absolute: float
    p95: float
    within_5_percent: float
    within_10_percent: float
    spearman: float
    kendall: float
    mean_absolute_by_third: tuple[float, float, float]
    """Fast, middle and slow third of the networks."""


def relative_errors(predicted: Sequence[float], measured: Sequence[float]) -> Floats:
    """`(predicted - measured) / measured`."""
    return np.array(predicted, dtype=np.float64) / np.array(measured, dtype=np.float64) - 1


def held_out_error(predicted: Sequence[float], measured: Sequence[float]) -> HeldOut | None:
    """Statistics over at least three networks of different latency; None for fewer, which would say nothing."""
    from scipy.stats import kendalltau, spearmanr

    if len(set(measured)) < 3 or len(set(predicted)) < 3:
        return None
    absolute = np.abs(relative_errors(predicted, measured))
    by_latency = absolute[np.argsort(measured)]
    fast, middle, slow = (float(third.mean()) for third in np.array_split(by_latency, 3))
    return HeldOut(
        n=len(absolute),
        mean_absolute=float(absolute.mean()),
        p95=float(np.percentile(absolute, 95)),
        within_5_percent=float((absolute <= 0.05).mean()),
        within_10_percent=float((absolute <= 0.10).mean()),
        spearman=float(spearmanr(predicted, measured).statistic),
        kendall=float(kendalltau(predicted, measured).statistic),
        mean_absolute_by_third=(fast, middle, slow),
    )


@dataclass(frozen=True)
class Uncertainty:
    """Standard deviation of relative errors, which are larger for fast networks than for slow ones.

    `relative` at the latencies `seconds`, ascending; between them it is linear in the logarithm of the latency.
    Raises `ValueError` for anything else.
    """

    seconds: tuple[float, ...]
    relative: tuple[float, ...]

    def __post_init__(self) -> None:
        ascending = all(before < after for before, after in pairwise((0.0, *self.seconds, inf)))
        if not self.seconds or len(self.seconds) != len(self.relative) or not ascending or min(self.relative) < 0:
            raise ValueError(f"an uncertainty has ascending latencies and a deviation of each; found {self}")

    def __call__(self, seconds: float) -> float:
        """Of a prediction of so many seconds."""
        return float(np.interp(np.log(seconds), np.log(self.seconds), self.relative))


_FEWEST_IN_A_PART = 8
"""Errors from which a deviation is estimated: to about a quarter of itself."""


def fit_uncertainty(predicted: Sequence[float], measured: Sequence[float]) -> Uncertainty:
    """Root mean squares of relative errors in each third of the latency range; in all of it if networks are few."""
    order = np.argsort(measured)
    parts = 3 if len(order) >= 3 * _FEWEST_IN_A_PART else 1
    errors = [relative_errors(predicted, measured)[part] for part in np.array_split(order, parts)]
    centres = [float(np.median(np.array(measured)[part])) for part in np.array_split(order, parts)]
    if len(set(centres)) < len(centres):
        centres, errors = [centres[0]], [np.concatenate(errors)]
    return Uncertainty(tuple(centres), tuple(float(np.sqrt((part**2).mean())) for part in errors))
