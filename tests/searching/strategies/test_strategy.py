"""Which drawn architectures a Gaussian process over the evaluated ones finds promising."""

from dataclasses import replace

import numpy as np

from nasdeploy.core.randomness import generator
from nasdeploy.searching.problem import candidates_of
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.searching.strategies import StrategyContext
from nasdeploy.searching.strategies.evolution import Evolution
from nasdeploy.searching.strategies.strategy import most_promising
from tests.searching.landscape import CODES, SPACE, Landscape, problem_at

PROBLEM = problem_at(1.0)


def drawn(count: int, seed: int) -> list:
    return SPACE.decode(CODES[np.random.default_rng(seed).choice(len(CODES), count, replace=False)])


def test_the_chosen_are_better_than_the_others() -> None:
    landscape = Landscape(0)
    known, new = drawn(200, 0), drawn(500, 1)
    found = candidates_of(PROBLEM, known, landscape.evaluate(known))
    chosen = most_promising(PROBLEM, found, new, 50)
    accuracy = landscape.accuracy(SPACE.encode(new))
    assert len(set(chosen)) == 50
    assert landscape.accuracy(SPACE.encode(chosen)).mean() > accuracy.mean() + accuracy.std()


def test_the_chosen_are_promising_and_from_all_over_the_range_of_costs() -> None:
    landscape = Landscape(0)
    known, new = drawn(200, 0), drawn(2000, 1)
    chosen = most_promising(PROBLEM, candidates_of(PROBLEM, known, landscape.evaluate(known)), new, 40)
    costs = PROBLEM.costs(SPACE.encode(new))[:, PROBLEM.axis.column]
    edges = np.linspace(costs.min(), costs.max(), 21)[1:-1]
    accuracy = landscape.accuracy(SPACE.encode(new))
    inside = np.digitize(PROBLEM.costs(SPACE.encode(chosen))[:, PROBLEM.axis.column], edges)
    assert set(inside) == set(np.digitize(costs, edges))
    better = [
        accuracy[np.digitize(costs, edges) == place].mean() < landscape.accuracy(SPACE.encode([arch]))[0]
        for arch, place in zip(chosen, inside, strict=True)
    ]
    assert np.mean(better) > 0.7


def test_one_alone_is_the_most_promising() -> None:
    landscape, known, new = Landscape(0), drawn(200, 0), drawn(500, 1)
    found = candidates_of(PROBLEM, known, landscape.evaluate(known))
    (one,) = most_promising(PROBLEM, found, new, 1)
    assert one == most_promising(PROBLEM, found, new, 50)[0]


def test_no_more_than_wanted_are_all_chosen() -> None:
    landscape, known = Landscape(0), drawn(5, 0)
    found = candidates_of(PROBLEM, known, landscape.evaluate(known))
    assert most_promising(PROBLEM, found, known, 5) == known


def test_equal_accuracies_are_no_trouble() -> None:
    known = drawn(20, 0)
    same = [replace(one, score=replace(one.score, value=0.5)) for one in Landscape(0).evaluate(known)]
    assert len(most_promising(PROBLEM, candidates_of(PROBLEM, known, same), drawn(50, 1), 10)) == 10


def test_a_screened_evolution_beats_one_that_is_not_and_keeps_to_the_rules() -> None:
    problem, within = problem_at(0.5), problem_at(0.5).feasible(problem_at(0.5).costs(CODES))

    def gap(seed: int, screening: int) -> float:
        landscape = Landscape(seed)
        settings = SearchSettings(
            rounds=5, parents=60, mutations=20, crossovers=20, buckets=0, elite=20, screening=screening
        )
        Evolution().run(problem, landscape.evaluate, settings, generator(seed, "test"), StrategyContext())
        assert len(set(landscape.evaluated)) == len(landscape.evaluated) == settings.evaluations
        assert problem.feasible(problem.costs(SPACE.encode(landscape.evaluated))).all()
        return float(landscape.all[within].max() - landscape.found().max())

    assert sum(gap(seed, 8) for seed in range(6)) < sum(gap(seed, 1) for seed in range(6))
