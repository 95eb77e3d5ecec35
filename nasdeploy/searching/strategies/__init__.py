"""Search strategies by name. A new one is a file of this package and a line here."""

from collections.abc import Mapping

from nasdeploy.searching.strategies.coarse_to_fine import CoarseToFine
from nasdeploy.searching.strategies.differentiable import Differentiable
from nasdeploy.searching.strategies.evolution import Evolution
from nasdeploy.searching.strategies.nsga2 import Nsga2
from nasdeploy.searching.strategies.predictor_guided import PredictorGuided
from nasdeploy.searching.strategies.random import Random
from nasdeploy.searching.strategies.reinforce import Reinforce
from nasdeploy.searching.strategies.strategy import Evaluate, Strategy

STRATEGIES: Mapping[str, Strategy] = {
    "evolution": Evolution(),
    "random": Random(),
    "nsga2": Nsga2(),
    "coarse-to-fine": CoarseToFine(),
    "predictor-guided": PredictorGuided(),
    "reinforce": Reinforce(),
    "differentiable": Differentiable(),
}

__all__ = ["STRATEGIES", "Evaluate", "Strategy"]
