"""Which of many drawn architectures are worth an evaluation, by those that were evaluated. Torch-free.

Pre-selection in evolution (Jin, Surrogate-assisted evolutionary computation, 2011) by a Gaussian process over
one-hot choices: two architectures are the less alike the more choices differ. Ranked by mean plus standard deviation,
so that what is like nothing evaluated yet has a chance (Srinivas et al., GP-UCB, 2010).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF

from nasdeploy.core.arch import Arch
from nasdeploy.core.costs import Floats
from nasdeploy.searching.front import Candidate
from nasdeploy.searching.predictors.models import OneHot
from nasdeploy.searching.problem import Problem

Places = npt.NDArray[np.intp]

_MOST = 1000
"""Evaluated architectures that it looks at, the best of all: its time grows with their third power."""
_LIKE = 1 / 3
"""Part of the choices after which likeness has fallen to 1/e."""
_NOISE = 0.02
"""Variance of an evaluation over that between architectures."""


def most_promising(problem: Problem, found: Sequence[Candidate], drawn: Sequence[Arch], count: int) -> list[Arch]:
    """The `count` of `drawn` of which the evaluated ones promise the most; all where it has no more.

    Half of them whatever they cost, and half each within its part of the range of costs, so that the front of accuracy
    against cost grows everywhere.
    """
    if len(drawn) <= count:
        return list(drawn)
    best = sorted(found, key=lambda candidate: candidate.rank, reverse=True)[:_MOST]
    codes = problem.space.encode(drawn)
    # The squared distance of one-hot rows is twice the number of choices that differ.
    alike = RBF(np.sqrt(_LIKE * len(problem.space.choices)), length_scale_bounds="fixed")
    process = GaussianProcessRegressor(alike, alpha=_NOISE, optimizer=None, normalize_y=True)
    features = OneHot(problem.space)
    process.fit(features(problem.space.encode([c.arch for c in best])), [c.evaluation.score.gain for c in best])
    mean, deviation = process.predict(features(codes), return_std=True)
    order = np.argsort(-(mean + deviation), kind="stable")
    return [drawn[place] for place in _spread(order, problem.costs(codes)[:, problem.axis.column], count)]


def _spread(order: Places, costs: Floats, count: int) -> Places:
    """`count` of places, ordered by what they promise: the first half, then the first in each interval of costs."""
    intervals = count // 2
    first, rest = order[: count - intervals], order[count - intervals :]
    width = np.ptp(costs) / max(intervals, 1) or 1.0
    interval = np.minimum((costs[rest] - costs.min()) // width, intervals - 1)
    _, leading = np.unique(interval, return_index=True)
    return np.concatenate([first, rest[leading], np.delete(rest, leading)])[:count]
