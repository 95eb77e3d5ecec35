"""NSGA-II (Deb et al. 2002) by pymoo: a whole Pareto front of accuracy over cost in one run."""

import numpy as np

from nasdeploy.core.space import Codes
from nasdeploy.searching.problem import Candidate, Problem, candidates_of
from nasdeploy.searching.proposals import Proposals
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.searching.strategies.strategy import Evaluate, Places, StrategyContext, most_promising

_WORST = 1.0
"""Error of what is beyond the budget and never evaluated; it is compared by how far it is beyond."""


class Nsga2:
    """A population of `parents`, then generations of as many children as evolution's mutations and crossovers."""

    def run(
        self,
        problem: Problem,
        evaluate: Evaluate,
        settings: SearchSettings,
        rng: np.random.Generator,
        context: StrategyContext,
    ) -> None:
        """Evaluate generation by generation; each child is a crossover of two parents, mutated and repaired.

        With `settings.screening` above 1, those of so many times as many children that a Gaussian process over what is
        known finds most promising.
        """
        # Takes about as long to import as everything else that a search without a supernet needs.
        from nasdeploy.searching.strategies.nsga2_operators import Generations

        first = problem.space.encode(Proposals(problem, rng).random(settings.parents))
        generations = Generations(problem, settings, first, rng)
        left, found = settings.evaluations, list[Candidate]()
        while left and (codes := generations.ask()) is not None:
            chosen = _chosen(problem, found, codes, min(left, settings.offspring if found else left))
            codes = generations.narrow(chosen)
            costs = problem.costs(codes)
            feasible = problem.feasible(costs)
            if not feasible.any():
                return
            archs = problem.space.decode(codes[feasible])
            found += candidates_of(problem, archs, evaluate(archs))
            errors = np.full(len(codes), _WORST)
            errors[feasible] = [candidate.evaluation.score.regret for candidate in found[-len(archs) :]]
            generations.tell(np.column_stack([errors, costs[:, problem.axis.column]]), problem.violation(costs))
            left -= len(archs)


def _chosen(problem: Problem, found: list[Candidate], codes: Codes, most: int) -> Places:
    """Choose which of the codes `[n, choices]` are evaluated: at most so many, the first ones if these are not
    screened."""
    if not found or len(codes) <= most:
        return np.arange(min(len(codes), most))
    archs = problem.space.decode(codes)
    feasible = np.flatnonzero(problem.feasible(problem.costs(codes)))
    promising = set(most_promising(problem, found, [archs[place] for place in feasible], most))
    return np.array([place for place in feasible if archs[place] in promising], dtype=np.intp)
