"""Random search: the baseline that every other strategy has to beat."""

import numpy as np

from nasdeploy.searching.problem import Problem
from nasdeploy.searching.proposals import Candidates
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.searching.strategies.strategy import Evaluate


class Random:
    """Architectures spread evenly over the costs that the budget allows."""

    def run(self, problem: Problem, evaluate: Evaluate, settings: SearchSettings, rng: np.random.Generator) -> None:
        """Evaluate as many as evolution would, in rounds of the same sizes."""
        drawn = Candidates(problem, rng).random(settings.evaluations)
        begin, end = 0, settings.parents
        while begin < len(drawn):
            evaluate(drawn[begin:end])
            begin, end = end, end + settings.offspring

    def planned(self, settings: SearchSettings) -> int:
        """As many as evolution."""
        return settings.evaluations
