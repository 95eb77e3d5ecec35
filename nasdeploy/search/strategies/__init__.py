"""Search strategies by name. A new one is a file of this package and a line here."""

from collections.abc import Mapping

from nasdeploy.search.strategies.coarse_to_fine import CoarseToFine
from nasdeploy.search.strategies.differentiable import Differentiable
from nasdeploy.search.strategies.evolution import Evolution
from nasdeploy.search.strategies.nsga2 import Nsga2
from nasdeploy.search.strategies.predictor_guided import PredictorGuided
from nasdeploy.search.strategies.random import Random
from nasdeploy.search.strategies.reinforce import Reinforce
from nasdeploy.search.strategies.strategy import Evaluate, Strategy

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
