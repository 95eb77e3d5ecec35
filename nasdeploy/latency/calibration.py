"""From the sum of a network's table entries to its latency: an affine map, fitted on whole networks, and its error.

Which whole networks these are is chosen here as well: they cover the space's latency range evenly.

A network is not the sum of its blocks: each call of a runtime costs something once, and blocks measured alone pay for
it every time. Hence a constant and the number of blocks beside the sum of entries. And a block that is measured alone
finds its weights in the processor's cache, from which a whole network's have driven each other: hence the number of
parameters.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Literal

import numpy as np

from nasdeploy.core.arch import Arch
from nasdeploy.core.cost_registry import SlotCost
from nasdeploy.core.costs import Costs, Floats
from nasdeploy.core.counting.chain import extremes
from nasdeploy.core.plan import Block
from nasdeploy.core.space import SearchSpace

_NOISE = 0.02
"""The relative residual that two measurements of one network may well show."""


@dataclass(frozen=True)
class LatencyCalibration:
    """`latency = slope * entries + per_block * blocks + per_param * parameters + offset`, in seconds.

    Raises `ValueError` for a negative slope, or negative seconds for a parameter.
    """

    slope: float
    """What the sum of entries is multiplied by."""
    per_block: float
    """The seconds that each block adds."""
    per_param: float
    """The seconds that each parameter adds."""
    offset: float
    """The seconds that each call adds."""

    def __post_init__(self) -> None:
        if min(self.slope, self.per_param) < 0:
            raise ValueError(f"a network gets no faster by slower blocks or by more parameters; found {self}")

    def __call__(self, terms: Floats) -> Floats:
        """Return latencies `[n]` of networks, given sums of entries, numbers of blocks, and of parameters, `[n, 3]`."""
        latencies: Floats = terms @ np.array([self.slope, self.per_block, self.per_param]) + self.offset
        return latencies

    def scaled(self, factor: float) -> "LatencyCalibration":
        """Return the calibration of latencies `factor` times as long."""
        return LatencyCalibration(*(factor * term for term in astuple(self)))


def fit(
    terms: Floats,
    seconds: Sequence[float],
    per_param: float | None = None,
    loss: Literal["soft_l1", "linear"] = "soft_l1",
) -> LatencyCalibration:
    """Return the calibration of networks with these terms `[n, 3]`, in the order of `Calibration`, and seconds `[n]`.

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
        loss=loss,
        f_scale=_NOISE,
        xtol=_TOLERANCE,
        ftol=_TOLERANCE,
        gtol=_TOLERANCE,
    )
    # The solver moves a term that nothing depends on away from its bound.
    changes = np.where(largest > 0, found.x * scale, 0.0)
    slope, per_block, for_param, offset = (float(value) for value in _PLAIN_SUM + given + changes)
    return LatencyCalibration(max(slope, 0.0), per_block, max(for_param, 0.0), offset)


_TOLERANCE = 1e-12
_PLAIN_SUM = np.array([1.0, 0.0, 0.0, 0.0])
_LOWER = np.array([-1.0, -np.inf, 0.0, -np.inf])
"""The lower bounds of the difference to the plain sum: a slope of 0, and no seconds for a parameter."""


@dataclass(frozen=True)
class HeldOutError:
    """The relative errors of predictions for networks that were not used for fitting."""

    n: int
    """The number of networks."""
    mean_absolute: float
    """The mean of |predicted / measured - 1|."""
    p95: float
    """The value of |predicted / measured - 1|, 0.02 for 2 per cent, that 95 % of the networks have at most."""
    within_5_percent: float
    """The part of the networks whose prediction is off by 5 % at most."""
    within_10_percent: float
    """The part of the networks whose prediction is off by 10 % at most."""
    spearman: float
    """Spearman's rank correlation of predicted and measured latencies."""
    kendall: float
    """Kendall's tau of predicted and measured latencies."""
    mean_absolute_by_third: tuple[float, float, float]
    """The mean errors in the fast, the middle and the slow third of the networks."""


def relative_errors(predicted: Sequence[float], measured: Sequence[float]) -> Floats:
    """Return `(predicted - measured) / measured`."""
    return np.array(predicted, dtype=np.float64) / np.array(measured, dtype=np.float64) - 1


def held_out_error(predicted: Sequence[float], measured: Sequence[float]) -> HeldOutError | None:
    """Return statistics over at least three networks of different latency; None for fewer, which would say nothing."""
    from scipy.stats import kendalltau, spearmanr

    if len(set(measured)) < 3 or len(set(predicted)) < 3:
        return None
    absolute = np.abs(relative_errors(predicted, measured))
    by_latency = absolute[np.argsort(measured)]
    fast, middle, slow = (float(third.mean()) for third in np.array_split(by_latency, 3))
    return HeldOutError(
        n=len(absolute),
        mean_absolute=float(absolute.mean()),
        p95=float(np.percentile(absolute, 95)),
        within_5_percent=float((absolute <= 0.05).mean()),
        within_10_percent=float((absolute <= 0.10).mean()),
        spearman=float(spearmanr(predicted, measured).statistic),
        kendall=float(kendalltau(predicted, measured).statistic),
        mean_absolute_by_third=(fast, middle, slow),
    )


def relative_deviation(predicted: Sequence[float], measured: Sequence[float]) -> float:
    """Return the root mean square of relative errors."""
    return float(np.sqrt((relative_errors(predicted, measured) ** 2).mean()))


# -- the whole networks that a table is calibrated on, and those that are held out

_CANDIDATES = 4000


def evenly(number: int, wanted: int) -> list[int]:
    """Return up to `wanted` different indices below `number`, ascending, at equal distances, both ends included."""
    return sorted({int(index) for index in np.linspace(0, number - 1, wanted).round()})


def blocks_by_macs(space: SearchSpace) -> list[Block]:
    """Return all blocks of a space in ascending MACs, in the same order for each table."""
    return sorted(space.distinct_blocks().values(), key=lambda block: (block.macs, block.key))


def stratified(space: SearchSpace, cost: SlotCost, number: int, rng: np.random.Generator) -> list[Arch]:
    """Return up to `number` architectures in ascending cost: both extremes, and others at equal ratios between them.

    Networks drawn uniformly sit in the middle of the range: a calibration on them would be extrapolated for low
    budgets. They are fewer if the space has fewer. `cost` is positive for every network.
    """
    cheapest, dearest = extremes(space, cost)
    ends = space.encode([cheapest.arch, dearest.arch])
    candidates = space.blend(space.sample_codes(_CANDIDATES, rng), ends, rng)
    costs = dict(zip(space.decode(candidates), Costs(space, [cost])(candidates)[:, 0], strict=True))
    chosen = {extreme.arch: extreme.cost for extreme in (cheapest, dearest)}
    for target in np.geomspace(cheapest.cost, dearest.cost, number)[1:-1]:
        unused = [arch for arch in costs if arch not in chosen]
        if unused:
            nearest = min(unused, key=lambda arch: abs(costs[arch] - target))
            chosen[nearest] = costs[nearest]
    return sorted(chosen, key=lambda arch: chosen[arch])[:number]


def reference_block(space: SearchSpace) -> Block:
    """Return the block of the reference graph: the middle one by MACs, the same for each table of a space."""
    blocks = blocks_by_macs(space)
    return blocks[len(blocks) // 2]
