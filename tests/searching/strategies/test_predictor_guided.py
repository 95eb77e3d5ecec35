"""Search on a predictor, against exhaustive search and against random search."""

import numpy as np
import pytest

from nasdeploy.core.randomness import generator
from nasdeploy.searching.predictors.predictor import fit_predictor
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.searching.strategies import predictor_guided
from nasdeploy.searching.strategies.means import Means, equipped
from nasdeploy.searching.strategies.predictor_guided import PredictorGuided
from tests.searching.landscape import CODES, SPACE, Landscape, problem_at

SETTINGS = SearchSettings(rounds=3, parents=100, mutations=50, crossovers=0)


def best_within(problem, landscape):
    return landscape.all[problem.feasible(problem.costs(CODES))].max()


def test_finds_what_is_better_than_99_9_percent_with_one_percent_evaluated():
    problem, landscape = problem_at(0.5), Landscape(0)
    PredictorGuided().run(problem, landscape.evaluate, SETTINGS, generator(0, "test"))
    feasible = landscape.all[problem.feasible(problem.costs(CODES))]
    assert len(landscape.evaluated) == len(set(landscape.evaluated)) == SETTINGS.evaluations == 200
    assert landscape.found().max() >= np.quantile(feasible, 0.999)


def test_each_fit_is_told_and_kept():
    said, kept, landscape = [], [], Landscape(0)
    strategy = equipped(PredictorGuided(), Means(say=said.append, keep=kept.append))
    settings = SETTINGS.model_copy(update={"predictor": "linear"})
    strategy.run(problem_at(0.5), landscape.evaluate, settings, generator(0, "test"))
    assert said == [str(fitted) for fitted in kept]
    assert [fitted.n for fitted in kept] == [100, 150]
    assert {fitted.predictor.kind for fitted in kept} == {"linear"}


def test_a_known_predictor_guides_the_first_round():
    landscape, problem = Landscape(0), problem_at(0.5)
    codes = SPACE.sample_codes(800, np.random.default_rng(0))
    known = fit_predictor(SPACE, "mlp", codes, landscape.accuracy(codes), np.random.default_rng(0))
    settings = SETTINGS.model_copy(update={"rounds": 1, "parents": 20})
    equipped(PredictorGuided(), Means(predictor=known)).run(problem, landscape.evaluate, settings, generator(0, "test"))
    assert len(set(landscape.evaluated)) == 20
    assert best_within(problem, landscape) - landscape.found().max() <= 0.005


@pytest.mark.parametrize("parents", [1, 5])
def test_too_few_networks_for_a_predictor_are_made_more(parents):
    landscape = Landscape(0)
    settings = SearchSettings(rounds=4, parents=parents, mutations=6, crossovers=0)
    PredictorGuided().run(problem_at(0.5), landscape.evaluate, settings, generator(0, "test"))
    assert len(set(landscape.evaluated)) == settings.evaluations


@pytest.mark.parametrize("seed", range(3))
def test_the_optimum_of_a_linear_predictor_is_evaluated(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though evolution on the predictor, which finds nothing here, does not lead there."""
    monkeypatch.setattr(predictor_guided, "evolve", lambda problem, predict, start, *rest: start)
    fits, landscape, problem = [], Landscape(seed), problem_at(0.5)
    settings = SETTINGS.model_copy(update={"predictor": "linear", "rounds": 2})
    strategy = equipped(PredictorGuided(), Means(keep=fits.append))
    strategy.run(problem, landscape.evaluate, settings, generator(seed, "test"))
    (fitted,) = fits
    predicted = fitted.predictor(CODES)
    feasible = problem.feasible(problem.costs(CODES))
    (best,) = SPACE.decode(CODES[[np.flatnonzero(feasible)[predicted[feasible].argmax()]]])
    assert best in landscape.evaluated
