"""Search on a predictor, against exhaustive search and against random search."""

import numpy as np
import pytest

from nasdeploy.core.cost_registry import macs
from nasdeploy.core.counting.chain import best_by_choices, extremes
from nasdeploy.core.randomness import generator
from nasdeploy.searching.predictors.models import LinearModel
from nasdeploy.searching.predictors.predictor import AccuracyPredictor, FittedPredictor, fit_predictor
from nasdeploy.searching.problem import Problem
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.searching.strategies import STRATEGIES, StrategyContext
from nasdeploy.searching.strategies.predictor_guided import evolved
from nasdeploy.spaces import load_space
from tests.searching.budgets import budget_of
from tests.searching.landscape import CODES, SPACE, Landscape, problem_at

SETTINGS = SearchSettings(rounds=3, parents=100, mutations=50, crossovers=0, gradient_steps=100)
GUIDED = ["predictor-guided", "differentiable"]


def best_within(problem: Problem, landscape: Landscape) -> float:
    return landscape.all[problem.feasible(problem.costs(CODES))].max()


@pytest.mark.parametrize("name", GUIDED)
def test_finds_what_is_better_than_99_9_percent_with_one_percent_evaluated(name: str) -> None:
    problem, landscape = problem_at(0.5), Landscape(0)
    STRATEGIES[name].run(problem, landscape.evaluate, SETTINGS, generator(0, "test"), StrategyContext())
    feasible = landscape.all[problem.feasible(problem.costs(CODES))]
    assert len(landscape.evaluated) == len(set(landscape.evaluated)) == SETTINGS.evaluations == 200
    assert landscape.found().max() >= np.quantile(feasible, 0.999)


@pytest.mark.parametrize("name", GUIDED)
def test_each_fit_is_told_and_kept(name: str) -> None:
    said: list[str] = []
    kept: list[FittedPredictor] = []
    settings = SETTINGS.model_copy(update={"predictor": "linear"})
    context = StrategyContext(say=said.append, keep=kept.append)
    STRATEGIES[name].run(problem_at(0.5), Landscape(0).evaluate, settings, generator(0, "test"), context)
    assert said == [str(fitted) for fitted in kept]
    assert [fitted.n for fitted in kept] == [100, 150]
    assert {fitted.predictor.kind for fitted in kept} == {"linear"}


@pytest.mark.parametrize("name", GUIDED)
def test_a_known_predictor_guides_the_first_round(name: str) -> None:
    landscape, problem = Landscape(0), problem_at(0.5)
    codes = SPACE.sample_codes(800, np.random.default_rng(0))
    known = fit_predictor(SPACE, "mlp", codes, landscape.accuracy(codes), np.random.default_rng(0))
    settings = SETTINGS.model_copy(update={"rounds": 1, "parents": 20})
    context = StrategyContext(predictor=known)
    STRATEGIES[name].run(problem, landscape.evaluate, settings, generator(0, "test"), context)
    assert len(set(landscape.evaluated)) == 20
    assert best_within(problem, landscape) - landscape.found().max() <= 0.005


@pytest.mark.parametrize("parents", [1, 5])
def test_too_few_networks_for_a_predictor_are_made_more(parents: int) -> None:
    landscape = Landscape(0)
    settings = SearchSettings(rounds=4, parents=parents, mutations=6, crossovers=0)
    strategy = STRATEGIES["predictor-guided"]
    strategy.run(problem_at(0.5), landscape.evaluate, settings, generator(0, "test"), StrategyContext())
    assert len(set(landscape.evaluated)) == settings.evaluations


@pytest.mark.parametrize("seed", range(3))
def test_the_optimum_of_a_linear_predictor_is_proposed_first(seed: int) -> None:
    """Whether evolution on the predictor leads there or not, in a space of 10^11 networks."""
    space, rng = load_space("alphanet"), np.random.default_rng(seed)
    width = sum(len(choice.values) for choice in space.choices)
    predictor = AccuracyPredictor(space, "linear", LinearModel(rng.normal(size=width), np.array(0.0)))
    cheapest, dearest = extremes(space, macs)
    bound = cheapest.cost + 0.3 * (dearest.cost - cheapest.cost)
    problem = Problem(space, budget_of(macs=bound))
    start = space.encode(problem.cheapest())
    codes = evolved(problem, predictor, start, SETTINGS, np.random.default_rng(seed))
    assert predictor.terms is not None
    optimum = best_by_choices(space, macs, bound, predictor.terms)
    assert optimum is not None
    assert predictor(codes)[0] == pytest.approx(optimum.value)
    assert predictor(codes)[0] >= predictor(codes)[1:].max()
    assert problem.feasible(problem.costs(codes)).all()
