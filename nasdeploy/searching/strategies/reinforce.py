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

from nasdeploy.core.arch import Arch
from nasdeploy.core.costs import Floats
from nasdeploy.core.score import Score
from nasdeploy.core.space import Codes, SearchSpace
from nasdeploy.searching.predictors.models import OneHot
from nasdeploy.searching.problem import Problem
from nasdeploy.searching.proposals import Proposals
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.searching.strategies.strategy import Evaluate, StrategyContext

_EXPONENTS = {"soft": (-0.07, -0.07), "hard": (0.0, -1.0)}
"""w below and above the target; with -0.07, twice the latency is worth a twentieth more accuracy."""
_DRAWS = 50
"""Times that samples are drawn for a round; where too few of them are new the controller has settled."""
_STEPS = 10
"""The steps of gradient ascent on the samples of a round."""
_CLIP = 0.2
"""Change of a sample's probability in a round beyond which it counts no more (PPO, which MnasNet trains with)."""
_LEARNING_RATE = 0.1
_MEMORY = 0.9
"""The decay of the baseline, a moving average of rewards."""
_LARGEST = 3.0
"""Advantage, in spreads."""
_ENTROPY = 0.05


class Reinforce:
    """Rounds of: sample architectures, evaluate the new ones, make those of more than the usual reward more likely."""

    def run(
        self,
        problem: Problem,
        evaluate: Evaluate,
        settings: SearchSettings,
        rng: np.random.Generator,
        context: StrategyContext,
    ) -> None:
        """Evaluate random architectures, then round by round what the controller draws.

        Where it has settled so far that too little of that is new, mutations of its best fill the round up.
        """
        rewards, policy = Rewards(problem, *_EXPONENTS[settings.reward]), Policy(problem.space)
        candidates = Proposals(problem, rng)
        archs = candidates.random(settings.parents)
        samples = problem.space.encode(archs)
        for number in range(1, settings.rounds + 1):
            rewards.learn(archs, [_merit(evaluation.score) for evaluation in evaluate(archs)])
            if number == settings.rounds:
                break
            policy.learn(*rewards.of(samples))
            archs, samples = _draw(policy, rewards, settings.offspring, rng)
            if len(archs) < settings.offspring:
                near = candidates.mutations(rewards.best(), settings.offspring, settings.mutation_probability)
                archs += rewards.unknown(near, archs)[: settings.offspring - len(archs)]
            if not archs:
                break


def _merit(score: Score) -> float:
    """Return what takes the place of the accuracy in the reward: above 0, and larger for better scores."""
    if score.penalty is not None or (score.metric.aggregate == "proportion" and score.metric.maximise):
        return score.gain
    return 1 / (1 + score.regret)


def _draw(policy: "Policy", rewards: "Rewards", count: int, rng: np.random.Generator) -> tuple[list[Arch], Codes]:
    """Up to `count` new feasible architectures of the controller, and all its samples with them."""
    found: list[Arch] = []
    drawn: list[Codes] = []
    while len(drawn) < _DRAWS and len(found) < count:
        drawn.append(policy.sample(2 * max(count, 1), rng))
        found += rewards.new(drawn[-1], found, count - len(found))
    return found, np.concatenate(drawn)


@dataclass
class Rewards:
    """Rewards of architectures of a problem, as far as they are known."""

    problem: Problem
    below: float
    """w of those within the budget."""
    above: float
    """w of the others."""
    _accuracies: dict[Arch, float] = field(default_factory=dict)

    def learn(self, archs: Sequence[Arch], accuracies: Sequence[float]) -> None:
        """Accuracies of architectures."""
        self._accuracies.update(zip(archs, accuracies, strict=True))

    def best(self) -> list[Arch]:
        """The tenth of the evaluated architectures that is most accurate."""
        ranked = sorted(self._accuracies, key=lambda arch: self._accuracies[arch], reverse=True)
        return ranked[: 1 + len(ranked) // 10]

    def new(self, codes: Codes, chosen: Sequence[Arch], count: int) -> list[Arch]:
        """The first `count` feasible architectures of codes `[n, choices]`, neither evaluated nor `chosen` yet."""
        feasible = codes[self.problem.feasible(self.problem.costs(codes))]
        return self.unknown(self.problem.space.decode(feasible), chosen)[:count]

    def unknown(self, archs: Sequence[Arch], chosen: Sequence[Arch]) -> list[Arch]:
        """Return those of some architectures, each once, that are neither evaluated nor `chosen` yet."""
        before = set(chosen)
        return [arch for arch in dict.fromkeys(archs) if arch not in self._accuracies and arch not in before]

    def of(self, codes: Codes) -> tuple[Codes, Floats, npt.NDArray[np.bool_]]:
        """Return those of the codes `[n, choices]` that have a reward: evaluated ones and infeasible ones.

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
        axis = self.problem.axis.column
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
        """Return for each choice the probability of each value."""
        return [_softmax(logits) for logits in np.split(self._logits, np.cumsum(self._sizes)[:-1])]

    def sample(self, count: int, rng: np.random.Generator) -> Codes:
        """Codes `[count, choices]`."""
        draws: list[npt.NDArray[np.int16]] = [
            rng.choice(len(p), size=count, p=p).astype(np.int16) for p in self.probabilities
        ]
        return np.stack(draws, axis=1)

    def learn(self, codes: Codes, rewards: Floats, evaluated: npt.NDArray[np.bool_]) -> None:
        """Steps towards the codes `[n, choices]` whose rewards `[n]` exceed the baseline, away from the others.

        Baseline and spread are those of the `evaluated` `[n]`, and no advantage is beyond a few spreads: otherwise
        those far beyond the budget would hide the differences between the others.
        """
        if evaluated.any():
            self._remember(rewards[evaluated])
        advantages = ((rewards - self._baseline) / self._spread).clip(-_LARGEST, _LARGEST)
        features = self._one_hot(codes)
        before = features @ np.log(np.concatenate(self.probabilities) + _TINY)
        for _ in range(_STEPS if len(codes) else 0):
            probabilities = np.concatenate(self.probabilities)
            ratio = np.exp(features @ np.log(probabilities + _TINY) - before)
            beyond = np.where(advantages > 0, ratio > 1 + _CLIP, ratio < 1 - _CLIP)
            weights = np.where(beyond, 0.0, advantages * ratio)
            gradient = ((features - probabilities) * weights[:, None]).mean(axis=0)
            self._ascend(gradient + _ENTROPY * self._entropy_gradient())

    def _remember(self, rewards: Floats) -> None:
        memory = _MEMORY if self._spread else 0.0
        self._baseline = memory * self._baseline + (1 - memory) * float(rewards.mean())
        self._spread = memory * self._spread + (1 - memory) * (float(rewards.std()) or _TINY)

    def _entropy_gradient(self) -> Floats:
        """Return the gradient of the sum of the distributions' entropies by the logits: without it they settle on what
        was seen first."""
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
