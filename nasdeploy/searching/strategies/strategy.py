"""What a search strategy is, and which of many drawn architectures are worth an evaluation. Torch-free.

Pre-selection in evolution (Jin, Surrogate-assisted evolutionary computation, 2011) by a Gaussian process over
one-hot choices: two architectures are the less alike the more choices differ. Ranked by mean plus standard deviation,
so that what is like nothing evaluated yet has a chance (Srinivas et al., GP-UCB, 2010).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from nasdeploy.core.arch import Arch
from nasdeploy.core.costs import Floats
from nasdeploy.searching.loss_table import LossTable
from nasdeploy.searching.predictors.models import OneHot
from nasdeploy.searching.predictors.predictor import FittedPredictor
from nasdeploy.searching.problem import Candidate, Problem
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.store.evaluations import Evaluation

Evaluate = Callable[[Sequence[Arch]], list[Evaluation]]
"""Accuracies of architectures, in their order; what was evaluated before costs nothing."""


@dataclass(frozen=True)
class StrategyContext:
    """What a strategy may use beside the problem; by default nothing."""

    predictor: FittedPredictor | None = None
    """The predictor that an earlier search of the same supernet kept."""
    losses: LossTable | None = None
    """The table of loss of the same supernet."""
    say: Callable[[str], None] = lambda text: None
    """Where a line for the user goes."""
    keep: Callable[[FittedPredictor], None] = lambda fitted: None
    """What keeps a predictor for later searches."""


class Strategy(Protocol):
    """One way of searching. What it evaluated is the result: the caller keeps it and picks the best."""

    def run(
        self,
        problem: Problem,
        evaluate: Evaluate,
        settings: SearchSettings,
        rng: np.random.Generator,
        context: StrategyContext,
    ) -> None:
        """Evaluate architectures within the problem's budget, none twice, at most `settings.evaluations` of them.

        Deterministic for a generator and an `evaluate` that is. Raises `InfeasibleBudget` if nothing is within it.
        """


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
    # scikit-learn takes a second to import.
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF

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
