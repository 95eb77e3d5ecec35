"""NSGA-II on codes: feasible children, none twice, and a whole front."""

import numpy as np
from pymoo.indicators.hv import HV

from nasdeploy.randomness import generator
from nasdeploy.search.settings import SearchSettings
from nasdeploy.search.strategies.nsga2 import Nsga2
from tests.search.landscape import CODES, SPACE, Landscape, problem_at

SETTINGS = SearchSettings(rounds=8, parents=60, mutations=30, crossovers=30, mutation_probability=0.1)


def test_the_front_covers_more_than_that_of_as_many_random_architectures() -> None:
    problem, landscape = problem_at(0.5), Landscape(0)
    Nsga2().run(problem, landscape.evaluate, SETTINGS, generator(0, "test"))
    costs = problem.costs(CODES)
    feasible = problem.feasible(costs)
    macs = costs[:, problem.axis]
    volume = HV(ref_point=np.array([1 - landscape.all[feasible].min(), macs[feasible].max()]))

    def covered(accuracy: np.ndarray, cost: np.ndarray) -> float:
        return float(volume(np.column_stack([1 - accuracy, cost])))

    whole = covered(landscape.all[feasible], macs[feasible])
    found = covered(landscape.found(), problem.costs(SPACE.encode(landscape.evaluated))[:, problem.axis])
    drawn = np.random.default_rng(0).choice(np.flatnonzero(feasible), len(landscape.evaluated), replace=False)
    assert covered(landscape.all[drawn], macs[drawn]) < found <= whole
    assert found >= 0.93 * whole
