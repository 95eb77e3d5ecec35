"""Differentiable search on the trained supernet (FBNet, Wu et al. 2019; FBNetV2, Wan et al. 2020; ProxylessNAS, 2019).

Each choice has a categorical distribution of its own. Gumbel-softmax samples of all of them weigh the masks of the
relaxed supernet, whose cross-entropy on training images is lowered by gradient descent on the distributions' logits;
the supernet's weights stay. The expected costs are in the loss (ProxylessNAS, section 3.3), each with a multiplier
that rises while it is beyond its bound and falls below (dual ascent), so that no weight has to be found by hand. At
last the most likely architectures within the budget are evaluated.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nasdeploy.core.costs import Floats
from nasdeploy.core.errors import UserError
from nasdeploy.core.space import Codes
from nasdeploy.searching.predictors.evolution import distinct
from nasdeploy.searching.problem import Problem
from nasdeploy.searching.proposals import Candidates
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.searching.strategies.means import Means, Trained
from nasdeploy.searching.strategies.strategy import Evaluate

if TYPE_CHECKING:
    from torch import Tensor

_DRAWN = 20_000


@dataclass(frozen=True)
class Differentiable:
    """Gradient descent on a distribution of architectures, whose most likely ones are evaluated."""

    means: Means = field(default_factory=Means)
    needs_supernet: ClassVar[bool] = True

    def equipped(self, means: Means) -> "Differentiable":
        """The same, on the supernet of `means`."""
        return Differentiable(means)

    def run(self, problem: Problem, evaluate: Evaluate, settings: SearchSettings, rng: np.random.Generator) -> None:
        """Learn the distribution, then evaluate the most likely architectures, all at once.

        Raises `UserError` without a supernet, or for one whose blocks cannot be masked.
        """
        if self.means.trained is None:
            raise UserError("strategy differentiable: there is no trained supernet; search in a run that has one")
        # Before anything is learned: it says so if nothing is within the budget.
        random = Candidates(problem, rng).random(self.planned(settings))
        probabilities = _learned(problem, self.means.trained(), settings, rng)
        likely = _likely(problem, probabilities, rng)[: self.planned(settings)]
        archs = list(dict.fromkeys([*problem.space.decode(likely), *random]))
        evaluate(archs[: self.planned(settings)])

    def planned(self, settings: SearchSettings) -> int:
        """Evaluations: those of one round, however many rounds the others take."""
        return settings.offspring or settings.parents


def _learned(problem: Problem, trained: Trained, settings: SearchSettings, rng: np.random.Generator) -> list[Floats]:
    """The probabilities of each choice's values after `gradient_steps`."""
    # Seconds to import, and needed by this strategy alone.
    from nasdeploy.searching.relaxation import Relaxation

    relaxation = Relaxation(problem, trained.supernet, settings.gradient_steps, int(rng.integers(2**62)))
    batches = _endless(trained)
    for _ in range(settings.gradient_steps):
        relaxation.step(*next(batches))
    return relaxation.probabilities


def _endless(trained: Trained) -> "Iterator[tuple[Tensor, Tensor]]":
    for epoch in count():
        yield from trained.batches(epoch)


def _likely(problem: Problem, probabilities: list[Floats], rng: np.random.Generator) -> Codes:
    """Distinct feasible codes `[n, choices]` that were drawn from the distribution, by falling probability.

    Some are drawn from flatter ones, lest a distribution that has settled beyond the budget gives none.
    """
    drawn = []
    for flatness in (1.0, 2.0, 4.0):
        parts = [p ** (1 / flatness) / (p ** (1 / flatness)).sum() for p in probabilities]
        drawn.append(np.stack([rng.choice(len(p), size=_DRAWN, p=p).astype(np.int16) for p in parts], axis=1))
    codes = np.concatenate(drawn)
    codes = codes[distinct(codes)]
    codes = codes[problem.feasible(problem.costs(codes))]
    likelihood = sum(np.log(p + _TINY)[codes[:, place]] for place, p in enumerate(probabilities))
    return codes[np.argsort(-np.asarray(likelihood), kind="stable")]


_TINY = 1e-30
