"""Search on a predictor of accuracy (OFA, section 4.1), in rounds: what it finds best is evaluated and teaches it.

What it finds best is looked for by evolution (with `search.predictor: linear` exactly: choices add up, and the optimum
within a bound is computed), or by gradient descent on soft choices (`nasdeploy.searching.predictors.descent`).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from nasdeploy.core.arch import Arch
from nasdeploy.core.counting.chain import best_by_choices
from nasdeploy.core.space import Codes
from nasdeploy.searching.predictors.predictor import LEAST, AccuracyPredictor, evolve, fit_predictor
from nasdeploy.searching.problem import Candidate, Problem, candidates_of
from nasdeploy.searching.proposals import Proposals
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.searching.strategies.strategy import Evaluate, StrategyContext

_GENERATIONS = 100
_POPULATION = 200
_EXPLORED = 0.25
"""Part of a round that is mutations of the best networks: the predictor errs most where it was never corrected."""


Propose = Callable[[Problem, AccuracyPredictor, Codes, SearchSettings, np.random.Generator], Codes]
"""How networks are found that a predictor finds good: feasible codes `[n, choices]`, the best ones first.

It is given feasible codes `[m, choices]` to begin with, the best known ones first.
"""


@dataclass(frozen=True)
class PredictorGuided:
    """Rounds of: fit a predictor on what was evaluated, propose networks by it, evaluate the best of them."""

    propose: Propose

    def run(
        self,
        problem: Problem,
        evaluate: Evaluate,
        settings: SearchSettings,
        rng: np.random.Generator,
        context: StrategyContext,
    ) -> None:
        """Evaluate random architectures, then round by round those that the predictor finds best."""
        candidates = Proposals(problem, rng)
        found: list[Candidate] = []
        archs = self._first(problem, candidates, settings, rng, context)
        for number in range(1, settings.rounds + 1):
            found += candidates_of(problem, archs, evaluate(archs))
            if number == settings.rounds:
                break
            archs = self._next(problem, candidates, found, settings, rng, context)
            if not archs:
                break

    def _first(
        self,
        problem: Problem,
        candidates: Proposals,
        settings: SearchSettings,
        rng: np.random.Generator,
        context: StrategyContext,
    ) -> list[Arch]:
        """Return random architectures; half of them from the known predictor if there is one."""
        random = candidates.random(settings.parents)
        if context.predictor is None:
            return random
        codes = self.propose(problem, context.predictor.predictor, problem.space.encode(random), settings, rng)
        half = settings.parents // 2
        return list(dict.fromkeys([*_new(problem, codes, (), settings.parents - half), *random]))[: settings.parents]

    def _next(
        self,
        problem: Problem,
        candidates: Proposals,
        found: Sequence[Candidate],
        settings: SearchSettings,
        rng: np.random.Generator,
        context: StrategyContext,
    ) -> list[Arch]:
        """Return what the predictor finds best of what is new, and mutations of the best networks."""
        known = {candidate.arch for candidate in found}
        best = sorted(found, key=lambda candidate: candidate.rank, reverse=True)[:_POPULATION]
        parents = [candidate.arch for candidate in best]
        guided: list[Arch] = []
        if len(found) >= LEAST:
            predictor = _fit(problem, found, settings, rng, context)
            codes = self.propose(problem, predictor, problem.space.encode(parents), settings, rng)
            guided = _new(problem, codes, known, settings.offspring - int(_EXPLORED * settings.offspring))
        near = parents[: max(1, len(parents) // 4)]
        explored = candidates.mutations(near, settings.offspring, settings.mutation_probability)
        return list(dict.fromkeys([*guided, *(arch for arch in explored if arch not in known)]))[: settings.offspring]


def _fit(
    problem: Problem,
    found: Sequence[Candidate],
    settings: SearchSettings,
    rng: np.random.Generator,
    context: StrategyContext,
) -> AccuracyPredictor:
    codes = problem.space.encode([candidate.arch for candidate in found])
    accuracies = [candidate.evaluation.score.gain for candidate in found]
    fitted = fit_predictor(problem.space, settings.predictor, codes, accuracies, rng)
    context.say(str(fitted))
    context.keep(fitted)
    return fitted.predictor


def descended(
    problem: Problem, predictor: AccuracyPredictor, start: Codes, settings: SearchSettings, rng: np.random.Generator
) -> Codes:
    """Return feasible codes `[n, choices]` by falling prediction, found by gradient descent on soft choices."""
    # PyTorch takes seconds to import.
    from nasdeploy.searching.predictors.descent import descend

    return descend(problem, predictor, start, rng, settings.gradient_steps)


def evolved(
    problem: Problem, predictor: AccuracyPredictor, start: Codes, settings: SearchSettings, rng: np.random.Generator
) -> Codes:
    """Return feasible codes `[n, choices]` by falling prediction; the best there is first where choices add up."""
    codes = evolve(problem, predictor, start, rng, _GENERATIONS, _POPULATION)
    if predictor.terms is None:
        return codes
    bounded = problem.axis
    found = best_by_choices(problem.space, bounded.slot_cost, bounded.bound.high - bounded.offset, predictor.terms)
    best = problem.space.encode([found.arch] if found else [])
    # By the bound on the axis alone; another may exclude it.
    return np.concatenate([best[problem.feasible(problem.costs(best))], codes]) if len(best) else codes


def _new(problem: Problem, codes: Codes, known: Iterable[Arch], count: int) -> list[Arch]:
    """The first `count` architectures of codes `[n, choices]` that are not known."""
    seen, found = set(known), list[Arch]()
    for arch in problem.space.decode(codes):
        if len(found) >= count:
            break
        if arch not in seen:
            seen.add(arch)
            found.append(arch)
    return found
