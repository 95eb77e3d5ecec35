"""A distribution of architectures learned by gradient descent: better than the uniform one, and within its bounds."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nasdeploy.core.randomness import generator
from nasdeploy.searching.budget import Budget, Range
from nasdeploy.searching.problem import Problem
from nasdeploy.searching.relaxation import Relaxation
from nasdeploy.supernet.supernet import Supernet
from tests.searching.budgets import budget_of
from tests.supernet.test_extract import randomised
from tests.supernet.tiny import tiny_space

SPACE = tiny_space()


def supernet() -> Supernet:
    torch.manual_seed(0)
    made = Supernet(SPACE)
    randomised(made)
    return made


def images_and_labels(made: Supernet):
    """Images that one sub-network classifies without an error; its classifier is made to tell them well apart."""
    target = SPACE.sample(generator(3, "target"))
    images = torch.randn(32, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    classifier = made.weights["head"].classifier
    with torch.no_grad():
        classifier.weight *= 10
        classifier.bias -= made(images, target).mean(0)
        return images, made(images, target).argmax(1)


def expected(problem: Problem, probabilities) -> float:
    codes = drawn(probabilities, 3000)
    return float(problem.costs(codes)[:, problem.axis.column].mean())


def drawn(probabilities, count: int):
    rng = np.random.default_rng(0)
    return np.stack([rng.choice(len(p), size=count, p=p) for p in probabilities], axis=1).astype(np.int16)


def cross_entropy(made: Supernet, codes, images, labels) -> float:
    with torch.no_grad():
        return float(np.mean([float(F.cross_entropy(made(images, a), labels)) for a in SPACE.decode(codes)]))


def learned(problem: Problem, made: Supernet, images, labels, steps: int = 40) -> Relaxation:
    relaxation = Relaxation(problem, made, steps, 0)
    for _ in range(steps):
        relaxation.step(images, labels)
    return relaxation


@pytest.mark.slow
def test_what_it_draws_is_better_than_what_is_drawn_at_random():
    made, problem = supernet(), Problem(SPACE, Budget())
    images, labels = images_and_labels(made)
    found = learned(problem, made, images, labels)
    at_random = cross_entropy(made, SPACE.sample_codes(40, np.random.default_rng(1)), images, labels)
    assert cross_entropy(made, drawn(found.probabilities, 40), images, labels) < 0.96 * at_random


@pytest.mark.slow
@pytest.mark.parametrize("bound", ["high", "low"])
def test_expected_costs_come_within_their_bounds(bound):
    uniform = [np.full(len(c.values), 1 / len(c.values)) for c in SPACE.choices]
    middle = expected(Problem(SPACE, Budget()), uniform)
    wanted = Range(high=0.7 * middle) if bound == "high" else Range(low=1.3 * middle)
    problem, made = Problem(SPACE, budget_of(macs=wanted)), supernet()
    found = expected(problem, learned(problem, made, *images_and_labels(made)).probabilities)
    assert found <= 1.05 * wanted.high
    assert found >= 0.95 * wanted.low


def test_the_same_seed_learns_the_same():
    made = supernet()
    images, labels = images_and_labels(made)
    first, second = (learned(Problem(SPACE, Budget()), made, images, labels, 3).probabilities for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert all(values.sum() == pytest.approx(1) for values in first)
