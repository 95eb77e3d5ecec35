"""Random search: the baseline that every other strategy has to beat."""

import numpy as np

from nasdeploy.search.candidates import Candidates
from nasdeploy.search.problem import Problem
from nasdeploy.search.settings import SearchSettings
from nasdeploy.search.strategies.strategy import Evaluate


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
