"""Learning a distribution of architectures by gradient descent on a relaxed supernet."""

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nasdeploy.core.costs import Floats
from nasdeploy.searching.expected import ExpectedCost
from nasdeploy.searching.problem import Problem
from nasdeploy.supernet.relaxed import RESOLUTION, RelaxedSupernet
from nasdeploy.supernet.supernet import Supernet

_LEARNING_RATE = 0.05
_HOT, _COLD = 5.0, 0.5
"""Temperature of the Gumbel-softmax at first (FBNet, section 3.3) and at last."""
_DUAL_RATE = 0.5
"""What a multiplier rises by in a step, for a cost that is twice its bound."""


class Relaxation:
    """The distribution: for each choice logits of its values, independent of the others."""

    def __init__(self, problem: Problem, supernet: Supernet, steps: int, seed: int) -> None:
        """A uniform distribution that `steps` steps are to teach; raises `UserError` for blocks without masks."""
        space = problem.space
        self._sizes = {choice.name: len(choice.values) for choice in space.choices}
        self._logits = {name: torch.zeros(size, requires_grad=True) for name, size in self._sizes.items()}
        self._optimizer = torch.optim.Adam(list(self._logits.values()), _LEARNING_RATE)
        self._networks = [RelaxedSupernet(supernet, side) for side in space.values_of[RESOLUTION]]
        self._device = next(supernet.parameters()).device
        self._bounds = [
            (ExpectedCost(space, quantity), sign, bound)
            for quantity in problem.quantities
            if quantity.is_sum
            for sign, bound in ((1.0, quantity.bound.high), (-1.0, quantity.bound.low))
            if 0 < bound < np.inf
        ]
        self._multipliers = [0.0] * len(self._bounds)
        self._generator = torch.Generator().manual_seed(seed)
        self._steps, self._done = steps, 0

    @property
    def probabilities(self) -> list[Floats]:
        """Of each choice's values `[values]`, in the order of the space's choices."""
        found = [torch.softmax(logits.detach().double(), 0).numpy() for logits in self._logits.values()]
        return [values / values.sum() for values in found]

    def step(self, images: Tensor, labels: Tensor) -> float:
        """One step on images `[N, 3, S, S]` and labels `[N]`; the cross-entropy of the relaxed supernet before it."""
        weights = self._gumbel_softmax(_HOT * (_COLD / _HOT) ** (self._done / max(1, self._steps - 1)))
        cross_entropy = self._cross_entropy(images, labels, weights)
        # Exact, hence of the distribution and not of the sample.
        exceeded = self._exceeded({name: torch.softmax(logits, 0) for name, logits in self._logits.items()})
        loss = cross_entropy.cpu() + sum(
            multiplier * excess for multiplier, excess in zip(self._multipliers, exceeded, strict=True)
        )
        self._optimizer.zero_grad()
        torch.autograd.backward(loss)
        self._optimizer.step()
        self._multipliers = [
            max(0.0, multiplier + _DUAL_RATE * excess.item())
            for multiplier, excess in zip(self._multipliers, exceeded, strict=True)
        ]
        self._done += 1
        return cross_entropy.item()

    def _gumbel_softmax(self, temperature: float) -> Mapping[str, Tensor]:
        """A relaxed sample of each choice (Jang et al., 2017)."""
        found = {}
        for name, logits in self._logits.items():
            uniform = torch.rand(logits.shape, generator=self._generator).clamp(1e-9, 1 - 1e-7)
            found[name] = torch.softmax((logits - torch.log(-torch.log(uniform))) / temperature, 0)
        return found

    def _cross_entropy(self, images: Tensor, labels: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """Of every resolution, by its weight: no mask stands for a size of image."""
        images, labels = images.to(self._device), labels.to(self._device)
        moved = {name: values.to(self._device) for name, values in weights.items()}
        losses = [F.cross_entropy(network(images, moved), labels) for network in self._networks]
        return torch.stack(losses) @ moved[RESOLUTION]

    def _exceeded(self, probabilities: Mapping[str, Tensor]) -> list[Tensor]:
        """How far each expected cost is beyond its bound, as a part of it; negative within."""
        return [sign * (expected(probabilities) / bound - 1) for expected, sign, bound in self._bounds]
