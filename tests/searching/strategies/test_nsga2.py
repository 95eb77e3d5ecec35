"""NSGA-II on codes: feasible children, none twice, and a whole front."""

import numpy as np
from pymoo.indicators.hv import HV

from nasdeploy.core.randomness import generator
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.searching.strategies import StrategyContext
from nasdeploy.searching.strategies.nsga2 import Nsga2
from tests.searching.landscape import CODES, SPACE, Landscape, problem_at

PROBLEM = problem_at(0.5)
SETTINGS = SearchSettings(rounds=8, parents=60, mutations=30, crossovers=30, mutation_probability=0.1)
COSTS = PROBLEM.costs(CODES)
FEASIBLE = PROBLEM.feasible(COSTS)
MACS = COSTS[:, PROBLEM.axis.column]


def covered(landscape: Landscape, accuracy: np.ndarray, cost: np.ndarray) -> float:
    """The part of the true front's hypervolume."""
    worst = np.array([1 - landscape.all[FEASIBLE].min(), MACS[FEASIBLE].max()])
    volume = HV(ref_point=worst)
    whole = float(volume(np.column_stack([1 - landscape.all[FEASIBLE], MACS[FEASIBLE]])))
    return float(volume(np.column_stack([1 - accuracy, cost]))) / whole


def searched(seed: int, screening: int) -> tuple[Landscape, float]:
    """A landscape that was searched, and how much of its front is covered."""
    landscape = Landscape(seed)
    settings = SETTINGS.model_copy(update={"screening": screening})
    Nsga2().run(PROBLEM, landscape.evaluate, settings, generator(seed, "test"), StrategyContext())
    assert len(set(landscape.evaluated)) == len(landscape.evaluated) <= settings.evaluations
    costs = PROBLEM.costs(SPACE.encode(landscape.evaluated))
    assert PROBLEM.feasible(costs).all()
    return landscape, covered(landscape, landscape.found(), costs[:, PROBLEM.axis.column])


def test_the_front_covers_more_than_that_of_as_many_random_architectures() -> None:
    landscape, found = searched(0, screening=1)
    drawn = np.random.default_rng(0).choice(np.flatnonzero(FEASIBLE), len(landscape.evaluated), replace=False)
    assert covered(landscape, landscape.all[drawn], MACS[drawn]) < found <= 1
    assert found >= 0.93


def test_screened_children_cover_more_of_the_front() -> None:
    gains = [searched(seed, screening=10)[1] - searched(seed, screening=1)[1] for seed in range(4)]
    assert sum(gains) > 0
