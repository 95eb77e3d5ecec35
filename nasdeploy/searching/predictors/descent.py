"""Gradient descent on soft choices, through a predictor of accuracy and the expected costs.

A network is relaxed where it is encoded: each choice is a distribution over its values, independent of the others. What
the predictor is differentiated at is a Gumbel-softmax sample of all of them (FBNet, Wu et al. 2019, section 3.3). The
expectation of a cost that is a sum over slots is exact (ProxylessNAS, Cai et al. 2019, section 3.3); it is in the loss
with a multiplier that rises while it is beyond its bound and falls below (an augmented Lagrangian), so that no weight
has to be found by hand. Many distributions descend at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nasdeploy.core.costs import cost_tables
from nasdeploy.core.space import Codes, SearchSpace
from nasdeploy.searching.predictors.predictor import AccuracyPredictor, distinct, repaired
from nasdeploy.searching.problem import Problem, Quantity

_DISTRIBUTIONS = 64
_DRAWN = 64
"""Networks that are drawn from each distribution in the end."""
_SAMPLE = 256
"""Random networks that tell how much accuracies differ."""
_CERTAINTY = 1.0
"""The logit of what a known network chose, where a distribution starts from it."""
_LEARNING_RATE = 0.1
_HOT, _COLD = 2.0, 1.0
"""Temperature of the Gumbel-softmax at first and at last."""
_DUAL_RATE = 0.5
"""What a multiplier rises by in a step, for a cost that is twice its bound."""
_STIFFNESS = 50.0
"""What such a cost weighs beside it; without, the multipliers swing."""


def descend(
    problem: Problem, predictor: AccuracyPredictor, start: Codes, rng: np.random.Generator, steps: int
) -> Codes:
    """Return distinct feasible codes `[n, choices]` that distributions lead to in so many steps, best predicted first.

    `start` `[m, choices]` are feasible codes, the best ones first; half of the distributions begin at them.
    """
    choices = SoftChoices(problem, start, rng)
    # Accuracies count by what networks differ by, as costs do by their bounds.
    scale = float(predictor(problem.space.sample_codes(_SAMPLE, rng)).std()) or 1.0
    for step in range(steps):
        choices.step(predictor, scale, _HOT * (_COLD / _HOT) ** (step / max(1, steps - 1)))
    drawn = choices.draw(rng)
    codes = np.concatenate([start, repaired(problem, drawn, start[rng.integers(len(start), size=len(drawn))], rng)])
    codes = codes[distinct(codes)]
    return codes[np.argsort(-predictor(codes), kind="stable")]


class SoftChoices:
    """Distributions of networks: for each choice logits of its values, `[distributions, values]`."""

    def __init__(self, problem: Problem, start: Codes, rng: np.random.Generator) -> None:
        """Uniform distributions, but for half of them, which prefer what the first of `start` `[m, choices]` chose."""
        self._logits = [_started(len(c.values), start[:, n]) for n, c in enumerate(problem.space.choices)]
        self._optimizer = torch.optim.Adam(self._logits, _LEARNING_RATE)
        self._bounds = _bounds(problem)
        self._multipliers = torch.zeros(len(self._bounds), _DISTRIBUTIONS, dtype=torch.float64)
        self._noise = torch.Generator().manual_seed(int(rng.integers(2**62)))

    @property
    def probabilities(self) -> list[Tensor]:
        """The probabilities `[distributions, values]` of each choice's values, differentiable."""
        return [torch.softmax(logits, 1) for logits in self._logits]

    def step(self, predictor: AccuracyPredictor, scale: float, temperature: float) -> None:
        """Take a step to what the predictor finds better, in units of `scale`, and back to what is within bounds."""
        self._optimizer.zero_grad()
        sample = torch.cat([self._gumbel_softmax(logits, temperature) for logits in self._logits], 1)
        ascent = predictor.model.gradient(sample.detach().numpy()) / scale
        torch.autograd.backward(sample, torch.from_numpy(-ascent))
        if self._bounds:
            exceeded = torch.stack([bound.exceeded(self.probabilities) for bound in self._bounds])
            pressure = (self._multipliers + _STIFFNESS * exceeded).clamp(min=0.0)
            torch.autograd.backward((pressure**2).sum() / (2 * _STIFFNESS))
            self._multipliers = (self._multipliers + _DUAL_RATE * exceeded.detach()).clamp(min=0.0)
        self._optimizer.step()

    def draw(self, rng: np.random.Generator) -> Codes:
        """Draw codes `[n, choices]`: of each distribution its most likely ones, and some at random."""
        likely = [logits.detach().argmax(1).numpy()[None] for logits in self._logits]
        ends = [probabilities.detach().cumsum(1).numpy() for probabilities in self.probabilities]
        drawn = [(rng.random((_DRAWN, len(end), 1)) > end[:, :-1]).sum(axis=2) for end in ends]
        both = [np.concatenate(pair).ravel() for pair in zip(likely, drawn, strict=True)]
        return np.stack(both, axis=1).astype(np.int16)

    def _gumbel_softmax(self, logits: Tensor, temperature: float) -> Tensor:
        """Return a relaxed sample (Jang et al., 2017)."""
        uniform = torch.rand(logits.shape, generator=self._noise, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
        return torch.softmax((logits - torch.log(-torch.log(uniform))) / temperature, 1)


class ExpectedCost:
    """The exact expectation of a cost that is a sum over slots, where choices are drawn independently."""

    def __init__(self, space: SearchSpace, quantity: Quantity) -> None:
        """Raises `ValueError` for a quantity that is no sum over slots."""
        if not quantity.is_sum:
            raise ValueError(f"{quantity} is no sum over slots")
        places = {choice.name: place for place, choice in enumerate(space.choices)}
        self._tables = [
            ([places[name] for name in table.reads], torch.from_numpy(table.values[..., 0]))
            for table in cost_tables(space, space.slots, [quantity.slot_cost])
        ]
        self._offset = quantity.offset

    def __call__(self, probabilities: Sequence[Tensor]) -> Tensor:
        """Return the expected costs `[n]` for probabilities `[n, values]` of each choice's values."""
        total = torch.full((len(probabilities[0]),), self._offset, dtype=torch.float64)
        for (first, *rest), values in self._tables:
            found = torch.tensordot(probabilities[first], values, 1)
            for place in rest:
                found = torch.einsum("nv,nv...->n...", probabilities[place], found)
            total = total + found
        return total


@dataclass(frozen=True)
class _Bound:
    """A bound on an expected cost: from above if the sign is 1, from below if it is -1."""

    cost: ExpectedCost
    sign: float
    bound: float

    def exceeded(self, probabilities: Sequence[Tensor]) -> Tensor:
        """Return how far `[n]` the expected cost is beyond the bound, as a part of it; negative within."""
        return self.sign * (self.cost(probabilities) / self.bound - 1)


def _bounds(problem: Problem) -> list[_Bound]:
    """Return all bounds on costs that are sums over slots; what is no sum is seen to when networks are drawn."""
    return [
        _Bound(ExpectedCost(problem.space, quantity), sign, bound)
        for quantity in problem.quantities
        if quantity.is_sum
        for sign, bound in ((1.0, quantity.bound.high), (-1.0, quantity.bound.low))
        if 0 < bound < np.inf
    ]


def _started(values: int, chosen: Codes) -> Tensor:
    """Return logits `[distributions, values]` of a choice, of which the first half prefer what was `chosen` `[m]`."""
    logits = torch.zeros(_DISTRIBUTIONS, values, dtype=torch.float64)
    places = torch.from_numpy(chosen[: _DISTRIBUTIONS // 2].astype(np.int64))
    logits[torch.arange(len(places)), places] = _CERTAINTY
    return logits.requires_grad_()
