"""Whether a budget can be met at all, what can be reached where it cannot, and how many architectures it leaves.

Torch-free.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import hypot, sqrt

import numpy as np

from nasdeploy.core.cost_registry import SlotCost
from nasdeploy.core.costs import Floats
from nasdeploy.core.counting.chain import extremes
from nasdeploy.core.counting.rounded import Rounded
from nasdeploy.core.errors import InfeasibleBudget
from nasdeploy.core.randomness import generator
from nasdeploy.core.space import Codes
from nasdeploy.searching.problem import Problem, Quantity, excess

_POOL = 10_000
_KEPT = 200
_ROUNDS = 30
_CHILDREN = 2_000


def require_feasible(problem: Problem) -> None:
    """Raise `InfeasibleBudget`, with what can be reached, if no network is within the problem's budget.

    Each bound alone is checked exactly, all together by looking for a network that keeps to them.
    """
    for quantity in problem.quantities:
        if quantity.bound.bounded:
            _require_alone(problem, quantity)
    if not is_reachable(problem):
        raise InfeasibleBudget(
            f"no network was found within {problem.budget}; each bound can be met, but not all together: relax one of "
            f"them ({_reach(problem)})"
        )


def reachable_range(problem: Problem, quantity: Quantity) -> tuple[float, float]:
    """The smallest and the largest of one of the problem's costs in its space, exactly."""
    if not quantity.is_sum:
        return _peak_range(problem, quantity)
    low, high = extremes(problem.space, quantity.slot_cost)
    return low.cost + quantity.offset, high.cost + quantity.offset


def _require_alone(problem: Problem, quantity: Quantity) -> None:
    low, high = reachable_range(problem, quantity)
    asked = _missed(quantity, low, high)
    if asked is not None:
        text = quantity.cost.text
        raise InfeasibleBudget(
            f"no network of this space has {quantity} of {asked}; the space reaches from {text(low)} to "
            f"{text(high)}: give a budget in that range"
        )


def _missed(quantity: Quantity, low: float, high: float) -> str | None:
    """What is asked for and nothing has, None if something has it."""
    bound, text = quantity.bound, quantity.cost.text
    if bound.low > bound.high:
        return f"{text(bound.low)} or more and {text(bound.high)} or less"
    if bound.high < low * (1 - _ROUNDING):
        return f"{text(bound.high)} or less"
    if bound.low > high * (1 + _ROUNDING):
        return f"{text(bound.low)} or more"
    return None


_ROUNDING = 1e-12
"""Sums over slots are rounded differently in different orders."""


def _peak_range(problem: Problem, quantity: Quantity) -> tuple[float, float]:
    """Return the range of the largest over slots: its minimum is the least limit that leaves some network."""
    space, cost, column = problem.space, quantity.slot_cost, quantity.column
    sizes = sorted({cost(slot, block) for slot in space.slots for block in space.blocks_of(slot) if block is not None})
    first, last = 0, len(sizes) - 1
    while first < last:
        middle = (first + last) // 2
        if extremes(space, _larger_than(cost, sizes[middle]))[0].cost == 0:
            last = middle
        else:
            first = middle + 1
    smallest = extremes(space, _larger_than(cost, sizes[first]))[0].arch
    least = float(problem.costs(space.encode([smallest]))[0, column])
    return least, least * sizes[-1] / sizes[first]


def _larger_than(cost: SlotCost, limit: float) -> SlotCost:
    return lambda slot, block: float(cost(slot, block) > limit)


def is_reachable(problem: Problem) -> bool:
    """Whether a network within all bounds turns up; True without looking where there is one bound at most."""
    if np.count_nonzero(problem.lower > 0) + np.count_nonzero(problem.upper < np.inf) < 2:
        return True
    _, costs = _descended(problem, problem.violation)
    return bool(problem.feasible(costs).any())


def _reach(problem: Problem) -> str:
    """Return for each bound that cannot be met beside the others, how far its cost gets while they are kept."""
    parts = []
    for quantity in problem.quantities:
        for sign, bound, words in ((1.0, quantity.bound.high, "down to"), (-1.0, quantity.bound.low, "up to")):
            if 0 < bound < np.inf:
                reached = _best_beside_others(problem, quantity.column, sign)
                if reached is not None and sign * reached > sign * bound:
                    parts.append(f"within the others {quantity} reaches {words} {quantity.cost.text(reached)}")
    return "; ".join(parts) or "not even all but one of them"


def _best_beside_others(problem: Problem, column: int, sign: float) -> float | None:
    """The least (`sign` 1) or largest (-1) cost in a column within the bounds of the other columns that turns up."""
    lower, upper = problem.lower.copy(), problem.upper.copy()
    lower[column], upper[column] = 0.0, np.inf

    def score(costs: Floats) -> Floats:
        beyond = excess(costs, lower, upper)
        values = sign * costs[:, column]
        # Any network within the other bounds comes before any that is not.
        return np.where(beyond > 0, np.abs(values).max() * (2 + beyond), values)

    _, costs = _descended(problem, score)
    within = costs[excess(costs, lower, upper) == 0, column]
    return float(sign * (sign * within).min()) if len(within) else None


def _descended(problem: Problem, score: Callable[[Floats], Floats]) -> tuple[Codes, Floats]:
    """Codes and costs of networks of a low score: random ones, then mutations of the lowest; stops at a score of 0."""
    space, rng = problem.space, generator(0, "feasible")
    ends = space.encode(problem.cheapest())
    uniform = space.sample_codes(_POOL, rng)
    codes = np.concatenate([ends, uniform, space.blend(uniform, ends, rng)])
    costs = problem.costs(codes)
    for _ in range(_ROUNDS):
        order = np.argsort(score(costs), kind="stable")[:_KEPT]
        codes, costs = codes[order], costs[order]
        if score(costs)[0] == 0:
            break
        children = space.mutate(codes[rng.integers(len(codes), size=_CHILDREN)], _MUTATION, rng)
        codes, costs = np.concatenate([codes, children]), np.concatenate([costs, problem.costs(children)])
    return codes, costs


_MUTATION = 0.1
"""Per choice."""


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
