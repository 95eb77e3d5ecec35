"""What every search strategy has to keep; a new one starts with passing this."""

import pytest

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import InfeasibleBudget
from nasdeploy.core.randomness import generator
from nasdeploy.core.score import Metric, Score
from nasdeploy.searching.loss_table import LossTable
from nasdeploy.searching.problem import Problem
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.searching.strategies import STRATEGIES, StrategyContext
from nasdeploy.store.evaluations import Evaluation
from tests.latency.tables import SPACE as TOY
from tests.latency.tables import archs, table
from tests.searching.accuracy import evaluation
from tests.searching.budgets import budget_of
from tests.searching.landscape import CODES, SPACE, Landscape, problem_at
from tests.searching.losses import loss_table_of

SETTINGS = SearchSettings(rounds=8, parents=40, mutations=15, crossovers=15, gradient_steps=20)
SHORT = SETTINGS.model_copy(update={"rounds": 3})
NEAR = 0.02
"""Of top-1: what 250 evaluations of 19,683 architectures have to come within of the best."""
HALF = problem_at(0.5)
LOSSES = loss_table_of(SPACE, lambda arch: float(Landscape(0).accuracy(SPACE.encode([arch]))[0]))
TOY_LOSSES = loss_table_of(TOY, lambda arch: evaluation(arch).score.value)


def context_of(name: str, losses: LossTable) -> StrategyContext:
    """What a strategy cannot do without, and nothing else."""
    return StrategyContext(losses=losses if name == "additive" else None)


@pytest.fixture(params=sorted(STRATEGIES))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def searched(
    name: str, problem: Problem = HALF, settings: SearchSettings = SETTINGS, seed: int = 0
) -> tuple[Landscape, list[int]]:
    """A landscape that tells what was evaluated in it, and the sizes of the batches."""
    landscape, batches = Landscape(0), []

    def evaluate(drawn: list[Arch]) -> list[Evaluation]:
        batches.append(len(drawn))
        return landscape.evaluate(drawn)

    STRATEGIES[name].run(problem, evaluate, settings, generator(seed, "conformance"), context_of(name, LOSSES))
    return landscape, batches


def test_evaluates_what_is_within_the_budget_none_twice_about_as_many_as_planned_and_comes_near_the_best(
    name: str,
) -> None:
    landscape, batches = searched(name)
    evaluated, planned = landscape.evaluated, SETTINGS.evaluations
    assert HALF.feasible(HALF.costs(SPACE.encode(evaluated))).all()
    assert len(set(evaluated)) == len(evaluated)
    assert 0.9 * planned <= len(evaluated) <= planned
    assert all(SPACE.arch(dict(arch)) == arch for arch in evaluated)
    # Several processes share what comes together.
    assert min(batches) >= 1
    assert len(batches) <= SETTINGS.rounds + 1
    best = landscape.all[HALF.feasible(HALF.costs(CODES))].max()
    assert best - NEAR <= landscape.found().max() <= best


def test_the_same_seed_evaluates_the_same_in_the_same_order(name: str) -> None:
    first, again, other = (searched(name, settings=SHORT, seed=seed)[0].evaluated for seed in (3, 3, 4))
    assert first == again
    assert set(first) != set(other)


@pytest.mark.parametrize("part", [0.01, 0.99])
def test_budgets_near_both_ends_of_the_range(name: str, part: float) -> None:
    problem = problem_at(part)
    landscape, _ = searched(name, problem, SHORT)
    assert landscape.evaluated
    assert problem.feasible(problem.costs(SPACE.encode(landscape.evaluated))).all()


def test_bounds_that_exclude_each_other_are_infeasible(name: str) -> None:
    problem = Problem(TOY, budget_of(macs=90.0, params=1.0))
    with pytest.raises(InfeasibleBudget):
        STRATEGIES[name].run(
            problem,
            lambda drawn: [evaluation(arch) for arch in drawn],
            SETTINGS,
            generator(0, "test"),
            context_of(name, TOY_LOSSES),
        )


@pytest.mark.parametrize("part", [0.0, 0.1, 1.0])
def test_ends_when_a_tiny_space_is_used_up(name: str, part: float) -> None:
    known = table()
    fastest, slowest = known.range(TOY)
    problem = Problem(TOY, budget_of(latency=fastest * (1 + 1e-9) + part * (slowest - fastest)), known)
    evaluated: list[Arch] = []

    def evaluate(drawn: list[Arch]) -> list[Evaluation]:
        evaluated.extend(drawn)
        return [evaluation(arch) for arch in drawn]

    settings = SearchSettings(rounds=30, parents=200, mutations=50, crossovers=50, gradient_steps=20)
    STRATEGIES[name].run(problem, evaluate, settings, generator(0, "test"), context_of(name, TOY_LOSSES))
    allowed = [
        arch for arch, fits in zip(archs(), problem.feasible(problem.costs(TOY.encode(archs()))), strict=True) if fits
    ]
    assert len(set(evaluated)) == len(evaluated)
    assert set(evaluated) <= set(allowed)
    assert max(evaluation(arch).score.value for arch in evaluated) == max(
        evaluation(arch).score.value for arch in allowed
    )


def test_first_round_alone(name: str) -> None:
    settings = SearchSettings(rounds=1, parents=10, mutations=0, crossovers=0)
    assert 1 <= len(searched(name, settings=settings)[0].evaluated) <= 10


COST = Metric("cost", "cost", maximise=False, best=0.0, aggregate="whole", decimals=3)
"""A score of which less is better, and which is no mean over samples."""


def test_a_score_of_which_less_is_better(name: str) -> None:
    """The strategy comes as near to the smallest cost as to the largest accuracy."""
    landscape = Landscape(0)

    def evaluate(drawn: list[Arch]) -> list[Evaluation]:
        landscape.evaluated.extend(drawn)
        errors = 1 - landscape.accuracy(SPACE.encode(drawn))
        return [
            Evaluation(arch.digest, arch.text, Score(COST, float(error), 0.01, 100, float(error)), 0.0)
            for arch, error in zip(drawn, errors, strict=True)
        ]

    STRATEGIES[name].run(HALF, evaluate, SETTINGS, generator(0, "conformance"), context_of(name, LOSSES))
    best = landscape.all[HALF.feasible(HALF.costs(CODES))].max()
    assert best - NEAR <= landscape.found().max() <= best
