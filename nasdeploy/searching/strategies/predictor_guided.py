"""Search on a predictor of accuracy (OFA, section 4.1), in rounds: what it finds best is evaluated and teaches it.

With `search.predictor: linear` that is exact: choices add up, and the optimum within a bound is computed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from nasdeploy.core.arch import Arch
from nasdeploy.core.counting.optimum import best_by_choices
from nasdeploy.core.space import Codes
from nasdeploy.searching.front import Candidate, candidates_of
from nasdeploy.searching.predictors.evolution import evolve
from nasdeploy.searching.predictors.predictor import LEAST, AccuracyPredictor, fit_predictor
from nasdeploy.searching.problem import Problem
from nasdeploy.searching.proposals import Candidates
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.searching.strategies.means import Means
from nasdeploy.searching.strategies.strategy import Evaluate

_GENERATIONS = 100
_POPULATION = 200
_EXPLORED = 0.25
"""Part of a round that is mutations of the best networks: the predictor errs most where it was never corrected."""


@dataclass(frozen=True)
class PredictorGuided:
    """Rounds of: fit a predictor on what was evaluated, evolve many generations on it, evaluate the best of them."""

    means: Means = field(default_factory=Means)

    def equipped(self, means: Means) -> "PredictorGuided":
        """The same, which tells how good its predictors are, keeps them, and starts from one that is known."""
        return PredictorGuided(means)

    def run(self, problem: Problem, evaluate: Evaluate, settings: SearchSettings, rng: np.random.Generator) -> None:
        """Evaluate random architectures, then round by round those that the predictor finds best."""
        candidates = Candidates(problem, rng)
        found: list[Candidate] = []
        archs = self._first(problem, candidates, settings, rng)
        for number in range(1, settings.rounds + 1):
            found += candidates_of(problem, archs, evaluate(archs))
            if number == settings.rounds:
                break
            archs = self._next(problem, candidates, found, settings, rng)
            if not archs:
                break

    def planned(self, settings: SearchSettings) -> int:
        """Evaluations: those of the first round and of each further one."""
        return settings.evaluations

    def _first(
        self, problem: Problem, candidates: Candidates, settings: SearchSettings, rng: np.random.Generator
    ) -> list[Arch]:
        """Random architectures; half of them from the known predictor if there is one."""
        random = candidates.random(settings.parents)
        if self.means.predictor is None:
            return random
        codes = _promising(problem, self.means.predictor.predictor, problem.space.encode(random), rng)
        half = settings.parents // 2
        return list(dict.fromkeys([*_new(problem, codes, (), settings.parents - half), *random]))[: settings.parents]

    def _next(
        self,
        problem: Problem,
        candidates: Candidates,
        found: Sequence[Candidate],
        settings: SearchSettings,
        rng: np.random.Generator,
    ) -> list[Arch]:
        known = {candidate.arch for candidate in found}
        best = sorted(found, key=lambda candidate: candidate.rank, reverse=True)[:_POPULATION]
        parents = [candidate.arch for candidate in best]
        guided: list[Arch] = []
        if len(found) >= LEAST:
            predictor = self._fit(problem, found, settings, rng)
            codes = _promising(problem, predictor, problem.space.encode(parents), rng)
            guided = _new(problem, codes, known, settings.offspring - int(_EXPLORED * settings.offspring))
        near = parents[: max(1, len(parents) // 4)]
        explored = candidates.mutations(near, settings.offspring, settings.mutation_probability)
        return list(dict.fromkeys([*guided, *(arch for arch in explored if arch not in known)]))[: settings.offspring]

    def _fit(
        self, problem: Problem, found: Sequence[Candidate], settings: SearchSettings, rng: np.random.Generator
    ) -> AccuracyPredictor:
        codes = problem.space.encode([candidate.arch for candidate in found])
        accuracies = [candidate.evaluation.top1 for candidate in found]
        fitted = fit_predictor(problem.space, settings.predictor, codes, accuracies, rng)
        self.means.say(str(fitted))
        self.means.keep(fitted)
        return fitted.predictor


def _promising(problem: Problem, predictor: AccuracyPredictor, start: Codes, rng: np.random.Generator) -> Codes:
    """Feasible codes `[n, choices]` by falling prediction; the best there is first where choices simply add up."""
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
