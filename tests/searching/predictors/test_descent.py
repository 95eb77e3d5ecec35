"""Gradient descent on soft choices: costs against enumeration, and what it finds against the best there is."""

import numpy as np
import pytest
import torch
from torch import Tensor

from nasdeploy.core.space import SearchSpace
from nasdeploy.searching.budget import Budget, Range
from nasdeploy.searching.predictors.descent import ExpectedCost, SoftChoices, descend
from nasdeploy.searching.predictors.predictor import AccuracyPredictor, fit
from nasdeploy.searching.problem import Problem
from tests.latency.tables import SPACE as TOY
from tests.latency.tables import table
from tests.searching.budgets import budget_of
from tests.searching.landscape import CODES, SPACE, Landscape, problem_at

TABLE = table()


def probabilities_of(space: SearchSpace, count: int = 3) -> list[Tensor]:
    """Random distributions, `[count, values]` for each choice."""
    rng = np.random.default_rng(0)
    return [torch.from_numpy(rng.dirichlet(np.ones(len(choice.values)), count)) for choice in space.choices]


@pytest.mark.parametrize("column", [0, 1])
def test_the_expected_cost_is_the_mean_over_all_architectures(column: int) -> None:
    problem, probabilities = Problem(SPACE, Budget()), probabilities_of(SPACE)
    weights = np.prod([p.numpy()[:, CODES[:, place]] for place, p in enumerate(probabilities)], axis=0)
    found = ExpectedCost(SPACE, problem.quantities[column])(probabilities)
    assert found.numpy() == pytest.approx(weights @ problem.costs(CODES)[:, column], rel=1e-12)


def test_the_expected_latency_of_one_architecture_is_the_tables() -> None:
    latency = ExpectedCost(TOY, Problem(TOY, budget_of(latency=1.0), TABLE).quantities[0])
    for arch in [TOY.smallest(), TOY.largest()]:
        one = [torch.tensor([[float(v == arch[c.name]) for v in c.values]], dtype=torch.float64) for c in TOY.choices]
        assert float(latency(one)) == pytest.approx(TABLE.predict(TOY.plan(arch)).seconds, rel=1e-12)


def test_gradients_of_expected_latency_against_finite_differences() -> None:
    latency = ExpectedCost(TOY, Problem(TOY, budget_of(latency=1.0), TABLE).quantities[0])
    logits = [torch.randn(2, len(choice.values), dtype=torch.float64).requires_grad_() for choice in TOY.choices]

    def milliseconds(*values: Tensor) -> Tensor:
        return 1e3 * latency([torch.softmax(value, 1) for value in values])

    assert torch.autograd.gradcheck(milliseconds, logits, eps=1e-6, atol=1e-8, rtol=1e-6)


def test_peak_memory_is_no_sum() -> None:
    memory = Problem(TOY, Budget()).quantity("memory")
    with pytest.raises(ValueError, match="peak activation memory is no sum over slots"):
        ExpectedCost(TOY, memory)


def predictor(seed: int, kind: str = "mlp") -> AccuracyPredictor:
    """A predictor of one landscape, fitted on 250 architectures."""
    rng = np.random.default_rng(seed)
    codes = SPACE.sample_codes(250, rng)
    return fit(SPACE, kind, codes, Landscape(seed).accuracy(codes), rng)


@pytest.mark.parametrize("seed", range(2))
def test_what_it_finds_first_is_among_the_best_predicted_within_the_budget(seed: int) -> None:
    problem, predict = problem_at(0.5), predictor(seed)
    feasible = problem.feasible(problem.costs(CODES))
    start = problem.space.encode(problem.cheapest()[:1])
    codes = descend(problem, predict, start, np.random.default_rng(0), 100)
    predicted = predict(codes)
    assert problem.feasible(problem.costs(codes)).all()
    assert len(np.unique(codes, axis=0)) == len(codes)
    assert (np.diff(predicted) <= 0).all()
    # Of about 10,000 networks, the descent visits none by itself: it draws what its distributions prefer.
    assert predicted[0] >= np.quantile(predict(CODES[feasible]), 0.999)
    again = descend(problem, predict, start, np.random.default_rng(0), 100)
    assert np.array_equal(again, codes)


def test_without_bounds_each_choice_of_a_linear_predictor_becomes_its_best() -> None:
    predict, rng = predictor(0, "linear"), np.random.default_rng(0)
    start = np.zeros((1, len(SPACE.choices)), dtype=np.int16)
    choices = SoftChoices(Problem(SPACE, Budget()), start, rng)
    for _ in range(200):
        choices.step(predict, 0.01, 1.0)
    assert predict.terms is not None
    for probabilities, terms in zip(choices.probabilities, predict.terms, strict=True):
        assert (probabilities.detach().numpy().argmax(axis=1) == terms.argmax()).mean() > 0.9


@pytest.mark.parametrize("bounds", [(0.0, 0.3), (0.6, 0.7)])
def test_the_expected_cost_comes_to_be_within_its_bounds(bounds: tuple[float, float]) -> None:
    macs = Problem(SPACE, Budget()).costs(CODES)[:, 0]
    low, high = np.quantile(macs, bounds[0]) if bounds[0] else 0.0, np.quantile(macs, bounds[1])
    problem = Problem(SPACE, Budget({"macs": Range(float(low), float(high))}))
    start = CODES[problem.feasible(problem.costs(CODES))][:1]
    predict, choices = predictor(0), SoftChoices(problem, start, np.random.default_rng(0))
    for _ in range(300):
        choices.step(predict, 0.01, 1.0)
    expected = ExpectedCost(SPACE, problem.axis)(choices.probabilities).detach().numpy()
    assert ((expected >= 0.95 * low) & (expected <= 1.05 * high)).mean() > 0.9
