"""What a search strategy is: it decides which architectures are evaluated. Torch-free."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nasdeploy.core.arch import Arch
from nasdeploy.searching.predictors.predictor import FittedPredictor
from nasdeploy.searching.problem import Problem
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.store.evaluations import Evaluation

Evaluate = Callable[[Sequence[Arch]], list[Evaluation]]
"""Accuracies of architectures, in their order; what was evaluated before costs nothing."""


@dataclass(frozen=True)
class StrategyContext:
    """What a strategy may use beside the problem; by default nothing."""

    predictor: FittedPredictor | None = None
    """The predictor that an earlier search of the same supernet kept."""
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
