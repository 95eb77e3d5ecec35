"""NSGA-II (Deb et al. 2002) by pymoo: a whole Pareto front of accuracy over cost in one run."""

import numpy as np

from nasdeploy.costs import Floats
from nasdeploy.search.candidates import Candidates
from nasdeploy.search.problem import Problem
from nasdeploy.search.settings import SearchSettings
from nasdeploy.search.strategies.strategy import Evaluate
from nasdeploy.space import Codes

_WORST = 1.0
"""Error of what is beyond the budget and never evaluated; it is compared by how far it is beyond."""


class Nsga2:
    """A population of `parents`, then generations of as many children as evolution's mutations and crossovers."""

    def run(self, problem: Problem, evaluate: Evaluate, settings: SearchSettings, rng: np.random.Generator) -> None:
        """Evaluate generation by generation; each child is a crossover of two parents, mutated and repaired."""
        # Takes about as long to import as everything else that a search without a supernet needs.
        from nasdeploy.search.strategies.nsga2_operators import Generations

        first = problem.space.encode(Candidates(problem, rng).random(settings.parents))
        generations = Generations(problem, settings, first, rng)
        left = settings.evaluations
        while left and (codes := generations.ask(left)) is not None:
            objectives, feasible = _objectives(problem, evaluate, codes)
            if not feasible.any():
                return
            generations.tell(objectives, problem.violation(problem.costs(codes)))
            left -= int(feasible.sum())

    def planned(self, settings: SearchSettings) -> int:
        """As many as evolution."""
        return settings.evaluations


def _objectives(problem: Problem, evaluate: Evaluate, codes: Codes) -> tuple[Floats, np.typing.NDArray[np.bool_]]:
    """Error and the cost on the problem's axis `[n, 2]` of codes `[n, choices]`, and which are feasible."""
    costs = problem.costs(codes)
    feasible = problem.feasible(costs)
    error = np.full(len(codes), _WORST)
    error[feasible] = [1 - evaluation.top1 for evaluation in evaluate(problem.space.decode(codes[feasible]))]
    return np.column_stack([error, costs[:, problem.axis]]), feasible
