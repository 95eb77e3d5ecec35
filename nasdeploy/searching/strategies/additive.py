"""Search by a table of loss: losses of cuts add up, so that the networks of least loss within a budget are known.

Those that the table finds best are evaluated, and beside them mutations of the best that were evaluated: what cuts do
to each other the table does not know.
"""

import numpy as np

from nasdeploy.core.arch import Arch
from nasdeploy.core.counting.chain import best_by_tables
from nasdeploy.core.errors import UserError
from nasdeploy.core.space import Codes
from nasdeploy.searching.loss_table import AdditiveLoss
from nasdeploy.searching.predictors.predictor import evolve
from nasdeploy.searching.problem import Candidate, Problem, candidates_of
from nasdeploy.searching.proposals import Proposals
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.searching.strategies.strategy import Evaluate, StrategyContext

_EXACT = 64
"""The most networks that are found exactly. Further ones come from evolution on predictions."""
_GENERATIONS = 50
_POPULATION = 200
_EXPLORED = 0.25
"""Part of a round that is mutations of the best networks."""


class Additive:
    """The networks of least predicted loss within the budget, found exactly, and mutations of the best of them."""

    def run(
        self,
        problem: Problem,
        evaluate: Evaluate,
        settings: SearchSettings,
        rng: np.random.Generator,
        context: StrategyContext,
    ) -> None:
        """Evaluate the best by the table, then round by round the next best ones and mutations of what proved best.

        Raises `UserError` without a table of loss.
        """
        if context.losses is None:
            raise UserError("strategy additive goes by a table of loss, and there is none; choose another strategy")
        candidates = Proposals(problem, rng)
        ranked = least_losses(problem, AdditiveLoss(problem.space, context.losses), settings, candidates, rng)
        found: list[Candidate] = []
        archs = _filled(candidates, candidates.of(ranked, settings.parents), settings.parents)
        for number in range(1, settings.rounds + 1):
            found += candidates_of(problem, archs, evaluate(archs))
            if number == settings.rounds:
                break
            archs = _next(candidates, ranked, found, settings)
            if not archs:
                break


def least_losses(
    problem: Problem, predict: AdditiveLoss, settings: SearchSettings, candidates: Proposals, rng: np.random.Generator
) -> Codes:
    """Return feasible codes `[n, choices]` by rising predicted loss, the first of them exactly the best there are.

    Exactly by the bounds on the problem's axis; where a bound on another cost excludes these, what evolution finds.
    """
    axis = problem.axis
    count = min(settings.parents, _EXACT)
    optima = best_by_tables(problem.space, axis.slot_cost, axis.bound.high - axis.offset, predict.tables, count)
    start = problem.space.encode([optimum.arch for optimum in optima])
    start = start[problem.feasible(problem.costs(start))] if len(start) else start
    if not len(start):
        drawn = candidates.random(settings.parents)
        candidates.put_back(drawn)
        start = problem.space.encode(drawn)
    return evolve(problem, lambda codes: -predict(codes), start, rng, _GENERATIONS, _POPULATION)


def _next(candidates: Proposals, ranked: Codes, found: list[Candidate], settings: SearchSettings) -> list[Arch]:
    """Return mutations of the best networks, and what is the best of the rest by the table."""
    best = sorted(found, key=lambda candidate: candidate.rank, reverse=True)[: max(1, len(found) // 4)]
    near = [candidate.arch for candidate in best[:_POPULATION]]
    explored = candidates.mutations(near, int(_EXPLORED * settings.offspring), settings.mutation_probability)
    guided = candidates.of(ranked, settings.offspring - len(explored))
    return _filled(candidates, [*guided, *explored], settings.offspring)


def _filled(candidates: Proposals, archs: list[Arch], count: int) -> list[Arch]:
    """Return `count` architectures, random ones after those that are given, as far as there are more."""
    return archs if len(archs) == count else [*archs, *candidates.random(count - len(archs))]
