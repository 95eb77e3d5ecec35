"""pymoo's NSGA-II on the codes of a search space."""

from typing import Any

import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.evaluator import Evaluator
from pymoo.core.mutation import Mutation
from pymoo.core.population import Population
from pymoo.core.problem import Problem as Encoding
from pymoo.core.repair import Repair
from pymoo.operators.crossover.ux import UniformCrossover
from pymoo.problems.static import StaticProblem

from nasdeploy.core.costs import Floats
from nasdeploy.core.space import Codes
from nasdeploy.searching.problem import Problem
from nasdeploy.searching.proposals import repaired
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.searching.strategies.strategy import Places

_TRIES = 10
"""Matings in a row of which too few children are new, after which a small space counts as used up."""


class Generations:
    """Children to evaluate, generation by generation, none twice."""

    def __init__(self, problem: Problem, settings: SearchSettings, first: Codes, rng: np.random.Generator) -> None:
        """`first` `[n, choices]` is the initial population."""
        self._seen: set[bytes] = set()
        self._encoding = Encoding(n_var=len(problem.space.choices), n_obj=2, n_ieq_constr=1)
        self._algorithm = NSGA2(
            pop_size=settings.parents,
            n_offsprings=settings.screening * settings.offspring or None,
            sampling=first,
            crossover=UniformCrossover(prob=1.0),
            mutation=_Redraw(problem, settings.mutation_probability, rng),
            repair=_WithinBudget(problem, rng),
            eliminate_duplicates=_New(self._seen),
        )
        self._algorithm.mating.n_max_iterations = _TRIES
        # The caller ends the search.
        self._algorithm.setup(self._encoding, termination=("n_gen", float("inf")), seed=int(rng.integers(2**31)))
        self._asked: Population = None

    def ask(self) -> Codes | None:
        """The next generation `[n, choices]`, nothing that was evaluated before; None if nothing new turns up."""
        self._asked = self._algorithm.ask()
        return None if self._asked is None or not len(self._asked) else _codes(self._asked)

    def narrow(self, places: Places) -> Codes:
        """Return the codes of the generation in these places `[m]`, which are all that will be told of."""
        self._asked = self._asked[places]
        codes = _codes(self._asked)
        self._seen.update(row.tobytes() for row in codes)
        return codes

    def tell(self, objectives: Floats, violation: Floats) -> None:
        """Objectives to minimise `[n, 2]` and excess over the budget `[n]` of what was asked for last."""
        known = StaticProblem(self._encoding, F=objectives, G=violation[:, None])
        Evaluator().eval(known, self._asked)
        self._algorithm.tell(infills=self._asked)


def _codes(population: Population) -> Codes:
    return np.array(population.get("X"), dtype=np.int16)


class _Redraw(Mutation):  # type: ignore[misc]
    """Each choice is redrawn with some probability."""

    def __init__(self, problem: Problem, probability: float, rng: np.random.Generator) -> None:
        super().__init__()
        self._space, self._probability, self._rng = problem.space, probability, rng

    def _do(self, encoding: Encoding, codes: Codes, **unused: Any) -> Codes:
        return self._space.mutate(codes.astype(np.int16), self._probability, self._rng)


class _WithinBudget(Repair):  # type: ignore[misc]
    """Changed until it is within the budget, where that is possible, and canonical."""

    def __init__(self, problem: Problem, rng: np.random.Generator) -> None:
        super().__init__()
        self._problem, self._rng = problem, rng

    def _do(self, encoding: Encoding, codes: Codes, **unused: Any) -> Codes:
        codes = codes.astype(np.int16)
        mended = repaired(self._problem, codes, self._rng)
        # What cannot be repaired is left out there; it stays as it is here, and loses by its violation.
        whole = mended if len(mended) == len(codes) else self._one_by_one(codes)
        return self._problem.space.canonical(whole)

    def _one_by_one(self, codes: Codes) -> Codes:
        return np.stack([[*repaired(self._problem, row[None], self._rng), row][0] for row in codes])


class _New(DuplicateElimination):  # type: ignore[misc]
    """Leaves out what was asked for before, in this generation or an earlier one."""

    def __init__(self, seen: set[bytes]) -> None:
        super().__init__()
        self._seen = seen

    def _do(self, population: Population, other: Population | None, is_duplicate: Any) -> Any:
        known = self._seen if other is None else {row.tobytes() for row in _codes(other)}
        found: set[bytes] = set()
        for place, row in enumerate(_codes(population)):
            key = row.tobytes()
            is_duplicate[place] = key in known or (other is None and key in found)
            found.add(key)
        return is_duplicate
