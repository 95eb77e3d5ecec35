"""Search strategies by name. A new one is a file of this package and a line here."""

from collections.abc import Mapping

from nasdeploy.search.strategies.evolution import Evolution
from nasdeploy.search.strategies.strategy import Evaluate, Strategy

STRATEGIES: Mapping[str, Strategy] = {
    "evolution": Evolution(),
}

__all__ = ["STRATEGIES", "Evaluate", "Strategy"]
