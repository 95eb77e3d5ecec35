"""How many architectures a budget leaves. Torch-free."""

from dataclasses import dataclass
from math import hypot, sqrt

from nasdeploy.core.counting.rounded import Rounded
from nasdeploy.core.randomness import generator
from nasdeploy.core.space import Codes
from nasdeploy.searching.problem import Problem, Quantity

_DRAWS = 5_000


@dataclass(frozen=True)
class FeasibleSize:
    """Number of combinations of values within a budget."""

    count: int
    share: float
    """The part of all combinations of the space that this is."""
    standard_error: float
    """The standard error of `count`; 0 where that is no estimate."""


def feasible_size(problem: Problem) -> FeasibleSize:
    """How many combinations of values are within the problem's budget.

    Where one cost that is a sum over slots is bounded, all but those near the bounds are counted exactly. For bounds on
    several costs it is the part of a sample that is within all, drawn from those within the bound on a sum that leaves
    the fewest.
    """
    bounded = [quantity for quantity in problem.quantities if quantity.bound.bounded]
    sums = [quantity for quantity in bounded if quantity.is_sum]
    if not bounded:
        return FeasibleSize(problem.space.size, 1.0, 0.0)
    if len(bounded) == len(sums) == 1:
        (quantity,) = sums
        found = Rounded(problem.space, quantity.slot_cost).within(*_limits(quantity))
        return FeasibleSize(found.count, found.count / problem.space.size, found.standard_error)
    rng = generator(0, "feasible size")
    intervals = [Rounded(problem.space, one.slot_cost).within(*_limits(one)) for one in sums]
    if not intervals:
        return _part(problem, problem.space.size, 0.0, problem.space.sample_codes(_DRAWS, rng))
    fewest = min(intervals, key=lambda interval: interval.count)
    return _part(problem, fewest.count, fewest.standard_error, fewest.sample(_DRAWS, rng))


def _limits(quantity: Quantity) -> tuple[float, float]:
    """The bounds on the sum over slots."""
    return quantity.bound.low - quantity.offset, quantity.bound.high - quantity.offset


def _part(problem: Problem, count: int, error: float, codes: Codes) -> FeasibleSize:
    """Estimate, of `count` combinations known to a standard error, the part of uniform draws `[n, choices]` that is
    feasible."""
    within = problem.feasible(problem.costs(codes)).sum()
    share = float(within) / max(len(codes), 1)
    # Not 0 where all or none are within.
    of_share = sqrt((share * (1 - share) + 1 / _DRAWS) / _DRAWS)
    found = round(share * count)
    return FeasibleSize(found, found / problem.space.size, hypot(share * error, of_share * count))
