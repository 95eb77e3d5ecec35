"""The differentiable strategy: what it evaluates, and what it cannot do without."""

import numpy as np
import pytest
import torch

from nasdeploy.core.errors import UserError
from nasdeploy.core.randomness import generator
from nasdeploy.searching.budget import Budget
from nasdeploy.searching.problem import Problem
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.searching.strategies import STRATEGIES
from nasdeploy.searching.strategies.differentiable import Differentiable, _likely
from nasdeploy.searching.strategies.means import Means, Trained, equipped, needs_supernet
from nasdeploy.supernet.supernet import Supernet
from tests.searching.budgets import budget_of
from tests.supernet.test_extract import randomised
from tests.supernet.tiny import tiny_space

SPACE = tiny_space()
SETTINGS = SearchSettings(parents=10, mutations=8, crossovers=4, gradient_steps=3)


def trained() -> Trained:
    torch.manual_seed(0)
    supernet = Supernet(SPACE)
    randomised(supernet)
    images = torch.randn(8, 3, 9, 9)
    # Two batches an epoch: three steps need a second one.
    return Trained(supernet, lambda epoch: [(images, torch.arange(8) % 3)] * 2)


def problem_at(part: float) -> Problem:
    macs = Problem(SPACE, Budget()).costs(SPACE.sample_codes(1000, np.random.default_rng(0)))[:, 0]
    return Problem(SPACE, budget_of(macs=float(np.quantile(macs, part))))


@pytest.mark.parametrize("part", [0.001, 0.5])
def test_one_round_of_feasible_networks_is_evaluated(part):
    problem, batches = problem_at(part), []
    strategy = equipped(Differentiable(), Means(trained=trained))
    strategy.run(problem, lambda archs: batches.append(archs) or [], SETTINGS, generator(0, "test"))
    (archs,) = batches
    assert 1 <= len(archs) == len(set(archs)) <= strategy.planned(SETTINGS) == 12
    assert problem.feasible(problem.costs(SPACE.encode(archs))).all()


def test_the_most_likely_come_first():
    problem = problem_at(0.5)
    probabilities = [np.full(len(c.values), 0.1) for c in SPACE.choices]
    wanted = SPACE.encode(problem.cheapest()[:1])[0]
    for values, place in zip(probabilities, wanted, strict=True):
        values[place] = 1 - values.sum() + values[place]
    codes = _likely(problem, probabilities, np.random.default_rng(0))
    assert codes[0].tolist() == wanted.tolist()
    likelihoods = [sum(np.log(p[g]) for p, g in zip(probabilities, row, strict=True)) for row in codes]
    assert likelihoods == sorted(likelihoods, reverse=True)


def test_it_says_that_it_needs_a_supernet():
    assert [name for name, strategy in STRATEGIES.items() if needs_supernet(strategy)] == ["differentiable"]
    with pytest.raises(UserError) as refused:
        Differentiable().run(problem_at(0.5), lambda archs: [], SETTINGS, generator(0, "test"))
    assert str(refused.value) == ("strategy differentiable: there is no trained supernet; search in a run that has one")
