"""Expected costs against enumeration, and their gradients against finite differences."""

import numpy as np
import pytest
import torch

from nasdeploy.searching.budget import Budget
from nasdeploy.searching.expected import ExpectedCost
from nasdeploy.searching.problem import Problem
from tests.latency.tables import SPACE, table
from tests.searching.budgets import budget_of
from tests.searching.landscape import CODES
from tests.searching.landscape import SPACE as STAGES

TABLE = table()


def probabilities_of(space, seed=0):
    rng = np.random.default_rng(seed)
    return {c.name: torch.from_numpy(rng.dirichlet(np.ones(len(c.values)))) for c in space.choices}


@pytest.mark.parametrize("column", [0, 1])
def test_it_is_the_mean_over_all_architectures(column):
    problem, probabilities = Problem(STAGES, Budget()), probabilities_of(STAGES)
    weights = np.prod([p.numpy()[CODES[:, place]] for place, p in enumerate(probabilities.values())], axis=0)
    expected = float(weights @ problem.costs(CODES)[:, column])
    assert float(ExpectedCost(STAGES, problem.quantities[column])(probabilities)) == pytest.approx(expected, rel=1e-12)


def test_latency_of_one_architecture_is_the_tables():
    problem = Problem(SPACE, budget_of(latency=1.0), TABLE)
    latency = ExpectedCost(SPACE, problem.quantities[0])
    for arch in [SPACE.smallest(), SPACE.largest()]:
        one_hot = {c.name: torch.tensor([float(v == arch[c.name]) for v in c.values]) for c in SPACE.choices}
        assert float(latency(one_hot)) == pytest.approx(TABLE.predict(SPACE.plan(arch)).seconds, rel=1e-12)


def test_gradients_of_expected_latency_against_finite_differences():
    problem = Problem(SPACE, budget_of(latency=1.0), TABLE)
    latency = ExpectedCost(SPACE, problem.quantities[0])
    names = [choice.name for choice in SPACE.choices]
    logits = [torch.randn(len(choice.values), dtype=torch.float64).requires_grad_() for choice in SPACE.choices]

    def milliseconds(*values):
        return 1e3 * latency({name: torch.softmax(value, 0) for name, value in zip(names, values, strict=True)})

    assert torch.autograd.gradcheck(milliseconds, logits, eps=1e-6, atol=1e-8, rtol=1e-6)


def test_peak_memory_is_no_sum():
    memory = Problem(SPACE, Budget()).quantity("memory")
    with pytest.raises(ValueError, match="peak activation memory is no sum over slots"):
        ExpectedCost(SPACE, memory)
