"""Every search strategy on equal evaluations, against the true optimum of spaces that are small enough to enumerate.

    python -m tests.benchmarks.bench_strategies

20 landscapes (tests/searching/landscape.py: 19,683 architectures, of which half are within the budget; accuracy concave
in MACs plus NK interactions, K = 2), each with its own seed of search, and at most 1,000 evaluations. Printed: how many
points of top-1 the best found is below the best there is, in how many of the landscapes that is at most 0.1, and the
hypervolume under the found front over that under the true one.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median
from time import perf_counter

import numpy as np
from pymoo.indicators.hv import HV

from nasdeploy.core.costs import Floats
from nasdeploy.core.randomness import generator
from nasdeploy.searching.problem import Problem
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.searching.strategies import STRATEGIES, StrategyContext
from tests.searching.landscape import CODES, SPACE, Landscape, problem_at

NEAR = 0.1
"""Points of top-1."""
MOST = 1000
PLAIN = SearchSettings(rounds=19, parents=100, mutations=25, crossovers=25)
OFTEN = SearchSettings(
    rounds=49, parents=40, mutations=10, crossovers=10, mutation_probability=0.1, buckets=0, elite=25
)
SETTINGS = {
    "evolution": {
        "`evolution`": PLAIN,
        "`evolution`, `search.screening=1`": PLAIN.model_copy(update={"screening": 1}),
    },
    "nsga2": {"`nsga2`": OFTEN, "`nsga2`, `search.screening=1`": OFTEN.model_copy(update={"screening": 1})},
}
"""Where others than `PLAIN`: labels and settings, all of the same number of evaluations."""


@dataclass(frozen=True)
class Figures:
    """Of one search."""

    gap: float
    """Points of top-1 below the best within the budget."""
    volume: float
    """Hypervolume over that of the true front."""
    evaluations: int
    seconds: float


def search(name: str, settings: SearchSettings, problem: Problem, seed: int, ruggedness: float) -> Figures:
    """One strategy on one landscape; raises AssertionError if it evaluates more than it may."""
    landscape = Landscape(seed, ruggedness)
    began = perf_counter()
    STRATEGIES[name].run(problem, landscape.evaluate, settings, generator(seed, "benchmark", name), StrategyContext())
    seconds = perf_counter() - began
    assert len(landscape.evaluated) <= MOST, f"{name} evaluated {len(landscape.evaluated)}"
    costs, within = problem.costs(CODES), problem.feasible(problem.costs(CODES))
    macs, accuracy = costs[within, problem.axis.column], landscape.all[within]
    found = landscape.found()
    worst = np.array([1 - accuracy.min(), macs.max()])
    volume = hypervolume(found, problem.costs(SPACE.encode(landscape.evaluated))[:, problem.axis.column], worst)
    return Figures(
        100 * (accuracy.max() - found.max()),
        volume / hypervolume(accuracy, macs, worst),
        len(landscape.evaluated),
        seconds,
    )


def hypervolume(accuracy: Floats, macs: Floats, worst: Floats) -> float:
    """Of error and MACs, each as a part of the `worst` `[2]`."""
    points = np.column_stack([1 - accuracy, macs]) / worst
    return float(HV(ref_point=np.ones(2))(points))


def row(label: str, figures: Sequence[Figures]) -> str:
    """A line of the table."""
    gaps = [one.gap for one in figures]
    return (
        f"| {label} | {sum(gap <= NEAR for gap in gaps)} of {len(gaps)} | {median(gaps):.2f} | {max(gaps):.2f} "
        f"| {mean(one.volume for one in figures):.3f} | {min(one.volume for one in figures):.3f} "
        f"| {max(one.evaluations for one in figures)} | {mean(one.seconds for one in figures):.1f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=list(STRATEGIES))
    parser.add_argument("--ruggedness", type=float, default=Landscape.RUGGEDNESS, help="of top-1 between NK's extremes")
    parser.add_argument("--seeds", type=int, default=20, help="landscapes")
    arguments = parser.parse_args()
    problem = problem_at(0.5)
    print(f"{int(problem.feasible(problem.costs(CODES)).sum())} of {len(CODES)} architectures within {problem.budget}")
    print("| strategy | within 0.1 points | median gap | worst gap | hypervolume | least | evaluations | s |")
    print("|---|---|---|---|---|---|---|---|")
    for name in arguments.strategies:
        for label, settings in SETTINGS.get(name, {f"`{name}`": PLAIN}).items():
            figures = [search(name, settings, problem, seed, arguments.ruggedness) for seed in range(arguments.seeds)]
            print(row(label, figures), flush=True)


if __name__ == "__main__":
    main()
