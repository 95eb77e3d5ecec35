"""Evolution on a predictor: within the budget, each once, and near the best that there is."""

import numpy as np
import pytest

from nasdeploy.searching.predictors.predictor import distinct, evolve, repaired
from nasdeploy.searching.problem import Problem
from tests.searching.landscape import CODES, SPACE, Landscape, problem_at


def feasible_codes(problem: Problem, count: int, rng: np.random.Generator):
    codes = SPACE.sample_codes(2000, rng)
    return codes[problem.feasible(problem.costs(codes))][:count]


@pytest.mark.parametrize("seed", range(3))
def test_finds_one_of_the_best_thousandth_within_the_budget(seed):
    problem, landscape, rng = problem_at(0.4), Landscape(seed), np.random.default_rng(seed)
    found = evolve(problem, landscape.accuracy, feasible_codes(problem, 50, rng), rng, 30)
    feasible = landscape.all[problem.feasible(problem.costs(CODES))]
    assert landscape.accuracy(found[:1])[0] >= np.quantile(feasible, 0.999)


def test_what_it_finds_is_feasible_distinct_and_in_order():
    problem, landscape, rng = problem_at(0.2), Landscape(0), np.random.default_rng(0)
    found = evolve(problem, landscape.accuracy, feasible_codes(problem, 20, rng), rng, 20)
    assert problem.feasible(problem.costs(found)).all()
    assert len({tuple(row) for row in found}) == len(found) > 200
    assert (np.diff(landscape.accuracy(found)) <= 0).all()


def test_the_same_generator_gives_the_same_codes():
    problem, landscape = problem_at(0.5), Landscape(0)

    def run(seed):
        start = feasible_codes(problem, 20, np.random.default_rng(0))
        return evolve(problem, landscape.accuracy, start, np.random.default_rng(seed), 5).tolist()

    assert run(1) == run(1) != run(2)


def test_where_one_network_alone_is_feasible_it_is_found():
    problem = problem_at(1e-9)
    start = SPACE.encode(problem.cheapest()[:1])
    assert evolve(problem, Landscape(0).accuracy, start, np.random.default_rng(0), 5).tolist() == start.tolist()


def test_repair_takes_genes_of_the_feasible_ones_alone():
    problem, rng = problem_at(0.3), np.random.default_rng(0)
    codes, feasible = SPACE.sample_codes(500, rng), np.repeat(feasible_codes(problem, 1, rng), 500, axis=0)
    found = repaired(problem, codes, feasible, rng)
    assert problem.feasible(problem.costs(found)).all()
    assert ((found == codes) | (found == feasible)).all()
    kept = problem.feasible(problem.costs(codes))
    assert (found[kept] == codes[kept]).all()
    assert len(np.unique(found[~kept], axis=0)) > 50


def test_distinct_are_the_first_of_each():
    codes = np.array([[1, 2], [0, 1], [1, 2], [2, 1], [0, 1]], dtype=np.int16)
    assert distinct(codes).tolist() == [0, 1, 3]
