"""BigNAS's coarse-to-fine architecture selection: a grid over choices of the whole network, then its best ones varied.

On the grid all choices of a kind (the widths of all stages, their depths, ...) are at the same part of their ranges. A
point beyond the budget is repaired, since the paper goes on from skeletons of about the wanted cost.
"""

from itertools import product

import numpy as np

from nasdeploy.core.space import Codes, SearchSpace
from nasdeploy.searching.front import Candidate, candidates_of
from nasdeploy.searching.problem import Problem
from nasdeploy.searching.proposals import Candidates
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.searching.strategies.evolution import parents_of
from nasdeploy.searching.strategies.strategy import Evaluate


class CoarseToFine:
    """The finest grid of at most `parents` points, then rounds of neighbours of the best so far."""

    def run(self, problem: Problem, evaluate: Evaluate, settings: SearchSettings, rng: np.random.Generator) -> None:
        """Evaluate the grid, and then architectures in which some choices are one value up or down."""
        candidates = Candidates(problem, rng)
        archs = candidates.of(grid(problem.space, settings.parents, rng), settings.parents)
        # A budget between the grid's points may leave nothing of it.
        archs = archs or candidates.random(settings.parents)
        found: list[Candidate] = []
        left = settings.evaluations
        while archs:
            found += candidates_of(problem, archs, evaluate(archs))
            left -= len(archs)
            parents = parents_of(found, problem.axis.name, settings)
            count = min(settings.offspring, left)
            archs = candidates.neighbours(parents, count, settings.mutation_probability)

    def planned(self, settings: SearchSettings) -> int:
        """As many as evolution."""
        return settings.evaluations


def grid(space: SearchSpace, most: int, rng: np.random.Generator) -> Codes:
    """Codes `[n, choices]` of the finest grid of at most `most` points; so many of the coarsest if it has more."""
    kinds = list(dict.fromkeys(_kind(choice.name) for choice in space.choices))
    levels = max(2, int(most ** (1 / len(kinds)) + 1e-9))
    place = np.array([kinds.index(_kind(choice.name)) for choice in space.choices])
    last = np.array([len(choice.values) - 1 for choice in space.choices])
    points = np.array(list(product(np.linspace(0, 1, levels), repeat=len(kinds))))
    codes = np.floor(points[:, place] * last + 0.5).astype(np.int16)
    codes = np.unique(space.canonical(codes), axis=0)
    return codes if len(codes) <= most else codes[np.sort(rng.permutation(len(codes))[:most])]


def _kind(name: str) -> str:
    return name.partition(".")[0]
