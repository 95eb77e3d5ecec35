"""The strategy that goes by a table of loss: the best by the table come first, and are exactly those."""

import numpy as np
import pytest

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.randomness import generator
from nasdeploy.searching.loss_table import AdditiveLoss
from nasdeploy.searching.problem import Problem
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.searching.strategies import STRATEGIES, StrategyContext
from nasdeploy.store.evaluations import Evaluation
from tests.searching.budgets import budget_of
from tests.searching.landscape import CODES, SPACE, Landscape, problem_at
from tests.searching.losses import loss_table_of

LANDSCAPE = Landscape(1)
TABLE = loss_table_of(SPACE, lambda arch: float(LANDSCAPE.accuracy(SPACE.encode([arch]))[0]))
PREDICTED = AdditiveLoss(SPACE, TABLE)(CODES)


def evaluated(problem: Problem, settings: SearchSettings) -> list[list[Arch]]:
    """The rounds of a search."""
    rounds: list[list[Arch]] = []

    def evaluate(archs: list[Arch]) -> list[Evaluation]:
        rounds.append(archs)
        return LANDSCAPE.evaluate(archs)

    context = StrategyContext(losses=TABLE)
    STRATEGIES["additive"].run(problem, evaluate, settings, generator(0, "test"), context)
    return rounds


@pytest.mark.parametrize("part", [0.05, 0.5, 1.0])
def test_the_first_round_is_the_networks_of_least_predicted_loss(part: float) -> None:
    problem = problem_at(part)
    (first,) = evaluated(problem, SearchSettings(rounds=1, parents=20))
    found = AdditiveLoss(SPACE, TABLE)(SPACE.encode(first))
    within = problem.feasible(problem.costs(CODES))
    assert found == pytest.approx(np.sort(PREDICTED[within])[:20], abs=1e-12)


def test_a_bound_on_another_cost_excludes_what_is_best_by_the_first() -> None:
    params = Problem(SPACE, budget_of()).costs(CODES)[:, 1]
    problem = Problem(SPACE, budget_of(macs=1e9, params=float(np.quantile(params, 0.1))))
    (first,) = evaluated(problem, SearchSettings(rounds=1, parents=20))
    assert problem.feasible(problem.costs(SPACE.encode(first))).all()
    within = problem.feasible(problem.costs(CODES))
    assert AdditiveLoss(SPACE, TABLE)(SPACE.encode(first)).min() == pytest.approx(PREDICTED[within].min(), abs=1e-12)


def test_later_rounds_go_down_the_table_and_look_beside_what_proved_best() -> None:
    first, second = evaluated(problem_at(0.5), SearchSettings(rounds=2, parents=20, mutations=20, crossovers=20))
    guided = AdditiveLoss(SPACE, TABLE)(SPACE.encode(second))
    within = problem_at(0.5).feasible(problem_at(0.5).costs(CODES))
    next_best = np.sort(PREDICTED[within])[20:60]
    # A quarter are mutations, which may be among the next best ones too.
    assert (guided <= next_best[-1]).sum() >= 30
    assert set(first).isdisjoint(second)


def test_there_is_no_going_by_a_table_that_is_not_there() -> None:
    with pytest.raises(UserError, match="strategy additive goes by a table of loss, and there is none"):
        STRATEGIES["additive"].run(
            problem_at(0.5), LANDSCAPE.evaluate, SearchSettings(), generator(0, "test"), StrategyContext()
        )


def test_half_of_evolutions_first_round_are_the_networks_of_least_loss() -> None:
    problem, rounds = problem_at(0.5), list[list[Arch]]()

    def evaluate(archs: list[Arch]) -> list[Evaluation]:
        rounds.append(archs)
        return LANDSCAPE.evaluate(archs)

    settings = SearchSettings(rounds=2, parents=21, mutations=5, crossovers=5)
    for table in (TABLE, None):
        context = StrategyContext(losses=table)
        STRATEGIES["evolution"].run(problem, evaluate, settings, generator(0, "test"), context)
    seeded, _, plain, _ = rounds
    assert len(seeded) == len(set(seeded)) == len(plain) == 21
    within = problem.feasible(problem.costs(CODES))
    found = AdditiveLoss(SPACE, TABLE)(SPACE.encode(seeded))
    assert found[:10] == pytest.approx(np.sort(PREDICTED[within])[:10], abs=1e-12)
    assert set(seeded[:10]).isdisjoint(plain)
