"""A controller trained by REINFORCE (Williams, 1992) with MnasNet's reward (Tan et al., 2019, section 3.1).

The controller is a categorical distribution for each choice, independent of the others. The reward of an architecture
is ACC x (LAT / T) ^ w (equations 2 and 3): as a soft constraint w = -0.07 everywhere, as a hard one 0 below the target
T and -1 above. Only feasible and new architectures are evaluated; of what is known the reward is known. A sample beyond
the budget costs nothing: its accuracy is taken for the mean of those evaluated, its LAT / T for 1 plus the sum of its
relative excesses over the bounds, so that the controller learns to keep to them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from nasdeploy.arch import Arch
from nasdeploy.costs import Floats
from nasdeploy.search.candidates import Candidates
from nasdeploy.search.predictors.features import OneHot
from nasdeploy.search.problem import Problem
from nasdeploy.search.settings import SearchSettings
from nasdeploy.search.strategies.strategy import Evaluate
from nasdeploy.space import Codes, SearchSpace

_EXPONENTS = {"soft": (-0.07, -0.07), "hard": (0.0, -1.0)}
"""w below and above the target; with -0.07, twice the latency is worth a twentieth more accuracy."""
_STEPS = 8
"""Steps of the controller in a round."""
_DRAWN = 4
"""Samples of a step for each that may be evaluated."""
_TRIES = 50
"""Steps without anything new to evaluate, after which the controller is taken to have settled."""
_LEARNING_RATE = 0.1
_MEMORY = 0.9
"""Of the baseline, a moving average of rewards."""
_LARGEST = 3.0
"""Advantage, in spreads."""
_ENTROPY = 0.05


class Reinforce:
    """Steps of: sample architectures, evaluate the new ones, make those of more than the usual reward more likely."""

    def run(self, problem: Problem, evaluate: Evaluate, settings: SearchSettings, rng: np.random.Generator) -> None:
        """Evaluate random architectures, then what the controller draws."""
        rewards, policy = Rewards(problem, *_EXPONENTS[settings.reward]), Policy(problem.space)
        batch = max(1, settings.offspring // _STEPS)
        first = Candidates(problem, rng).random(min(batch, settings.evaluations))
        rewards.learn(first, [evaluation.top1 for evaluation in evaluate(first)])
        policy.update(*rewards.of(problem.space.encode(first)))
        idle = 0
        while rewards.evaluated < settings.evaluations and idle < _TRIES:
            codes = policy.sample(_DRAWN * batch, rng)
            archs = rewards.new(codes, min(batch, settings.evaluations - rewards.evaluated))
            if archs:
                rewards.learn(archs, [evaluation.top1 for evaluation in evaluate(archs)])
            idle = 0 if archs else idle + 1
            policy.update(*rewards.of(codes))

    def planned(self, settings: SearchSettings) -> int:
        """Evaluations at most; fewer where the controller settles."""
        return settings.evaluations


@dataclass
class Rewards:
    """Rewards of architectures of a problem, as far as they are known."""

    problem: Problem
    below: float
    """w of those within the budget."""
    above: float
    """w of the others."""
    _accuracies: dict[Arch, float] = field(default_factory=dict)

    @property
    def evaluated(self) -> int:
        """Architectures whose accuracy is known."""
        return len(self._accuracies)

    def learn(self, archs: Sequence[Arch], accuracies: Sequence[float]) -> None:
        """Accuracies of architectures."""
        self._accuracies.update(zip(archs, accuracies, strict=True))

    def new(self, codes: Codes, count: int) -> list[Arch]:
        """The first `count` architectures of codes `[n, choices]` that are feasible and not evaluated yet."""
        feasible = codes[self.problem.feasible(self.problem.costs(codes))]
        archs = dict.fromkeys(self.problem.space.decode(feasible))
        return [arch for arch in archs if arch not in self._accuracies][:count]

    def of(self, codes: Codes) -> tuple[Codes, Floats, npt.NDArray[np.bool_]]:
        """Those of the codes `[n, choices]` that have a reward: evaluated ones and infeasible ones.

        Also the rewards `[m]`, and which of them are those of evaluated ones.
        """
        costs = self.problem.costs(codes)
        feasible, excess = self.problem.feasible(costs), self.problem.violation(costs)
        expected = float(np.mean(list(self._accuracies.values())))
        archs = self.problem.space.decode(codes)
        accuracies = np.array(
            [self._accuracies.get(arch, np.nan) if ok else expected for arch, ok in zip(archs, feasible, strict=True)]
        )
        factor = np.where(feasible, self._ratio(costs) ** self.below, (1.0 + excess) ** self.above)
        known = ~np.isnan(accuracies)
        return codes[known], (accuracies * factor)[known], feasible[known]

    def _ratio(self, costs: Floats) -> Floats:
        """LAT / T `[n]` of costs `[n, quantities]`; 1 where the cost on the axis has no upper bound."""
        axis = self.problem.axis
        target = float(self.problem.upper[axis])
        return costs[:, axis] / target if 0 < target < np.inf else np.ones(len(costs))


class Policy:
    """The controller: logits for each value of each choice, and Adam's state for them."""

    def __init__(self, space: SearchSpace) -> None:
        self._sizes = [len(choice.values) for choice in space.choices]
        self._one_hot = OneHot(space)
        self._logits = np.zeros(self._one_hot.width)
        self._first, self._second, self._steps = np.zeros_like(self._logits), np.zeros_like(self._logits), 0
        self._baseline = self._spread = 0.0

    @property
    def probabilities(self) -> list[Floats]:
        """For each choice the probability of each value."""
        return [_softmax(logits) for logits in np.split(self._logits, np.cumsum(self._sizes)[:-1])]

    def sample(self, count: int, rng: np.random.Generator) -> Codes:
        """Codes `[count, choices]`."""
        draws: list[npt.NDArray[np.int16]] = [
            rng.choice(len(p), size=count, p=p).astype(np.int16) for p in self.probabilities
        ]
        return np.stack(draws, axis=1)

    def update(self, codes: Codes, rewards: Floats, evaluated: npt.NDArray[np.bool_]) -> None:
        """One step towards the codes `[n, choices]` whose rewards `[n]` exceed the baseline, away from the others.

        Baseline and spread are those of the `evaluated` `[n]`, and no advantage is beyond a few spreads: otherwise
        those far beyond the budget would hide the differences between the others.
        """
        if not len(codes):
            return
        if evaluated.any():
            self._remember(rewards[evaluated])
        advantages = ((rewards - self._baseline) / self._spread).clip(-_LARGEST, _LARGEST)
        probabilities = np.concatenate(self.probabilities)
        gradient = ((self._one_hot(codes) - probabilities) * advantages[:, None]).mean(axis=0)
        self._ascend(gradient + _ENTROPY * self._entropy_gradient())

    def _remember(self, rewards: Floats) -> None:
        memory = _MEMORY if self._spread else 0.0
        self._baseline = memory * self._baseline + (1 - memory) * float(rewards.mean())
        self._spread = memory * self._spread + (1 - memory) * (float(rewards.std()) or _TINY)

    def _entropy_gradient(self) -> Floats:
        """Of the sum of the distributions' entropies by the logits: without it they settle on what was seen first."""
        parts = [-p * (np.log(p + _TINY) - float(p @ np.log(p + _TINY))) for p in self.probabilities]
        return np.concatenate(parts)

    def _ascend(self, gradient: Floats) -> None:
        """Adam (Kingma and Ba, 2015) with its usual constants."""
        self._steps += 1
        self._first = 0.9 * self._first + 0.1 * gradient
        self._second = 0.999 * self._second + 0.001 * gradient**2
        mean, square = self._first / (1 - 0.9**self._steps), self._second / (1 - 0.999**self._steps)
        self._logits = self._logits + _LEARNING_RATE * mean / (np.sqrt(square) + 1e-8)


_TINY = 1e-12


def _softmax(logits: Floats) -> Floats:
    shifted = np.exp(logits - logits.max())
    found: Floats = shifted / shifted.sum()
    return found
