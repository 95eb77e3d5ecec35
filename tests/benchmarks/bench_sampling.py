"""Exact arithmetic of spaces: how long it takes to prepare, to count, and to draw within an interval of 1 % width.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_sampling

On costs in MACs. `layerwise` is a space of 10^20 architectures whose layers choose on their own, as once-for-all's. The
interval begins at 30 % of the range. Then what a search asks for, under a bound at 30 % of the range.
"""

import resource
from collections.abc import Callable
from time import perf_counter
from typing import TypeVar

import numpy as np

from nasdeploy.core.cost_registry import macs
from nasdeploy.core.counting.chain import best_by_choices, extremes
from nasdeploy.core.counting.rounded import Rounded
from nasdeploy.core.space import SearchSpace
from nasdeploy.searching.budget import Range
from nasdeploy.searching.feasibility import feasible_size
from nasdeploy.searching.problem import Problem
from nasdeploy.searching.proposals import Proposals
from nasdeploy.spaces import SPACES, load_space
from tests.searching.budgets import budget_of
from tests.small_spaces import LayerwiseSpace

DRAWS = 100_000
PLACE, WIDTH = 0.3, 0.01
T = TypeVar("T")


def timed(what: str, call: Callable[[], T]) -> tuple[T, float]:
    """What a call gives, and its seconds, which are printed."""
    start = perf_counter()
    found = call()
    seconds = perf_counter() - start
    print(f"  {what:52} {1e3 * seconds:9.1f} ms")
    return found, seconds


def draws(space: SearchSpace, counted: Rounded, low: float, high: float) -> None:
    """Count and draw in an interval."""
    interval, _ = timed("interval", lambda: counted.within(low, high))
    count, _ = timed("its count", lambda: interval.count)
    codes, seconds = timed(f"{DRAWS} draws", lambda: interval.sample(DRAWS, np.random.default_rng(0)))
    _, decoding = timed("the same as architectures", lambda: space.decode(codes))
    print(f"  {count:.6g} of {space.size:.3g}; standard error {interval.standard_error:.2g}")
    print(f"  {DRAWS / seconds:,.0f} draws/s; {DRAWS / (seconds + decoding):,.0f} architectures/s")


def asked_by_a_search(problem: Problem, bound: float) -> None:
    """First candidates, descendants, the feasible set and the optimum of an additive value."""
    rng = np.random.default_rng(0)
    timed("candidates: 8 at random", lambda: Proposals(problem, rng).random(8))
    candidates = Proposals(problem, rng)
    parents, _ = timed("candidates: 512 at random", lambda: candidates.random(512))
    timed("candidates: 128 mutations", lambda: candidates.mutations(parents, 128, 0.2))
    timed("candidates: 128 crossovers", lambda: candidates.crossovers(parents, 128))
    timed("feasible_size", lambda: feasible_size(problem))
    terms = [rng.normal(size=len(choice.values)) for choice in problem.space.choices]
    timed("best_by_choices", lambda: best_by_choices(problem.space, macs, bound, terms))


def main() -> None:
    """Print the figures of each space."""
    for space in (*map(load_space, SPACES), LayerwiseSpace()):
        cheapest, dearest = (extreme.cost for extreme in extremes(space, macs))
        low = cheapest + PLACE * (dearest - cheapest)
        high = low + WIDTH * (dearest - cheapest)
        print(f"{space.name}: {space.size:.3g} architectures")
        rounded, _ = timed("rounded costs: preparation", lambda space=space: Rounded(space, macs))
        draws(space, rounded, low, high)
        asked_by_a_search(Problem(space, budget_of(macs=Range(high=low))), low)
        print(f"  peak memory so far {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")


if __name__ == "__main__":
    main()
