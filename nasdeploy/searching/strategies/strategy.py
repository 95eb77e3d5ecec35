"""What a search strategy is: it decides which architectures are evaluated."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from nasdeploy.core.arch import Arch
from nasdeploy.searching.problem import Problem
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.store.evaluations import Evaluation

Evaluate = Callable[[Sequence[Arch]], list[Evaluation]]
"""Accuracies of architectures, in their order; what was evaluated before costs nothing."""


class Strategy(Protocol):
    """One way of searching. What it evaluated is the result: the caller keeps it and picks the best."""

    def run(self, problem: Problem, evaluate: Evaluate, settings: SearchSettings, rng: np.random.Generator) -> None:
        """Evaluate architectures within the problem's budget, none twice, about `planned` of them.

        Deterministic for a generator and an `evaluate` that is. Raises `InfeasibleBudget` if nothing is within it.
        """

    def planned(self, settings: SearchSettings) -> int:
        """How many evaluations it makes at most."""
