"""Networks that are chosen by their loss among some of about the same cost (AttentiveNAS, sections 3.2 and 3.3)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nasdeploy.core.arch import Arch
from nasdeploy.core.costs import Floats
from nasdeploy.core.space import Codes, SearchSpace
from nasdeploy.training.sandwich import LARGEST, RANDOM, SMALLEST, Sandwich

CostOf = Callable[[Codes], Floats]
"""A function from codes `[n, choices]` to costs `[n]`."""

TRIES = 100
"""The number of draws that may miss the bin before the nearest one is taken."""
CandidateLosses = Callable[[Sequence[Arch]], Sequence[float]]
"""A function from architectures to their label losses on the current batch, the same on all processes."""


@dataclass(frozen=True)
class Bins:
    """The equal bins of a cost: bin `i` holds costs from `start + i * width` on."""

    start: float
    width: float

    def numbers(self, costs: Floats) -> npt.NDArray[np.int64]:
        """Return the bin number of each cost."""
        return np.floor((costs - self.start) / self.width).astype(np.int64)

    def centre(self, number: int) -> float:
        """Return the cost in the middle of a bin."""
        return self.start + (number + 0.5) * self.width


def equal_bins(costs: Floats, count: int) -> Bins:
    """Return `count` bins over the range of the costs."""
    low, high = float(costs.min()), float(costs.max())
    # A little wider, so that the highest cost lies inside the last bin; and wide enough if all costs are equal.
    return Bins(low, max((high - low) / count * (1 + 1e-9), 1e-9 * max(abs(high), 1e-9)))


@dataclass(frozen=True)
class Prior:
    """A distribution of architectures over bins of a cost, and of each choice's values within a bin."""

    space: SearchSpace
    cost: CostOf
    bins: Bins
    numbers: npt.NDArray[np.int64]
    """The numbers of the occupied bins, `[occupied]`."""
    counts: npt.NDArray[np.int64]
    """The number of architectures counted in each of them, `[occupied]`."""
    cumulative: npt.NDArray[np.int64]
    """How many of them have this value of a choice or an earlier one, `[occupied, choices, values]`."""

    @classmethod
    def counted(cls, space: SearchSpace, cost: CostOf, codes: Codes, bins: Bins) -> "Prior":
        """Count codes `[n, choices]` that were drawn uniformly."""
        numbers, places, counts = np.unique(bins.numbers(cost(codes)), return_inverse=True, return_counts=True)
        values = max(len(choice.values) for choice in space.choices)
        flat = [np.bincount(places * values + column, minlength=len(numbers) * values) for column in codes.T]
        cumulative = np.stack([row.reshape(len(numbers), values) for row in flat], axis=1).cumsum(axis=2)
        return cls(space, cost, bins, numbers, counts, cumulative)

    def draw(self, count: int, rng: np.random.Generator) -> list[Arch]:
        """Draw `count` architectures from one bin, which is drawn from the histogram.

        Choices are drawn independently, each from its distribution in the bin. Where that misses the bin `TRIES` times,
        the draw nearest to the bin's centre is taken.
        """
        place = int(np.searchsorted(self.counts.cumsum(), rng.integers(self.counts.sum()), side="right"))
        drawn = rng.integers(self.counts[place], size=(count, TRIES, len(self.space.choices)))
        codes = (drawn[..., None] >= self.cumulative[place]).sum(axis=-1).astype(np.int16)
        costs = self.cost(codes.reshape(count * TRIES, -1)).reshape(count, TRIES)
        hits = self.bins.numbers(costs) == self.numbers[place]
        nearest = np.abs(costs - self.bins.centre(int(self.numbers[place]))).argmin(axis=1)
        taken = np.where(hits.any(axis=1), hits.argmax(axis=1), nearest)
        return self.space.decode(codes[np.arange(count), taken])


@dataclass(frozen=True)
class Attentive:
    """The sandwich rule whose random networks are chosen among candidates by their loss."""

    space: SearchSpace
    prior: Prior
    random_networks: int
    candidates: int
    choose: Callable[[Sequence[float]], int]
    """The function that gives the place of the loss that wins."""

    def draw(self, rng: np.random.Generator, epoch: int, losses: CandidateLosses) -> Sandwich:
        """Draw both ends, and random networks of which each is the winner of candidates of about the same cost."""
        groups = [self.prior.draw(self.candidates, rng) for _ in range(self.random_networks)]
        # All at once: with several processes their losses are averaged in one go.
        found = iter(losses([arch for group in groups for arch in group]))
        chosen = tuple(group[self.choose([next(found) for _ in group])] for group in groups)
        return Sandwich({LARGEST: (self.space.largest(),), RANDOM: chosen, SMALLEST: (self.space.smallest(),)})
