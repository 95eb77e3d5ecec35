"""Search strategies by name. A new one is a file of this package and a line here."""

from collections.abc import Mapping

from nasdeploy.searching.strategies.additive import Additive
from nasdeploy.searching.strategies.evolution import CoarseToFine, Evolution, Random
from nasdeploy.searching.strategies.nsga2 import Nsga2
from nasdeploy.searching.strategies.predictor_guided import PredictorGuided, descended, evolved
from nasdeploy.searching.strategies.reinforce import Reinforce
from nasdeploy.searching.strategies.strategy import Evaluate, Strategy, StrategyContext

STRATEGIES: Mapping[str, Strategy] = {
    "evolution": Evolution(),
    "random": Random(),
    "nsga2": Nsga2(),
    "coarse-to-fine": CoarseToFine(),
    "predictor-guided": PredictorGuided(evolved),
    "reinforce": Reinforce(),
    "differentiable": PredictorGuided(descended),
    "additive": Additive(),
}

__all__ = ["STRATEGIES", "Evaluate", "Strategy", "StrategyContext"]
