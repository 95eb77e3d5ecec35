"""Distribution of architectures over bins of a cost, and of each choice within a bin (AttentiveNAS, section 3.2)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nasdeploy.core.arch import Arch
from nasdeploy.core.costs import Floats
from nasdeploy.core.space import Codes, SearchSpace

CostOf = Callable[[Codes], Floats]
"""From codes `[n, choices]` to costs `[n]`."""

TRIES = 100
"""Draws that may miss the bin before the nearest one is taken."""


@dataclass(frozen=True)
class Bins:
    """Equal bins of a cost: bin `i` holds costs from `start + i * width` on."""

    start: float
    width: float

    def numbers(self, costs: Floats) -> npt.NDArray[np.int64]:
        """Bin number of each cost."""
        return np.floor((costs - self.start) / self.width).astype(np.int64)

    def centre(self, number: int) -> float:
        """Cost in the middle of a bin."""
        return self.start + (number + 0.5) * self.width


def equal_bins(costs: Floats, count: int) -> Bins:
    """`count` bins over the range of the costs."""
    low, high = float(costs.min()), float(costs.max())
    # A little wider, so that the highest cost lies inside the last bin; and wide enough if all costs are equal.
    return Bins(low, max((high - low) / count * (1 + 1e-9), 1e-9 * max(abs(high), 1e-9)))


@dataclass(frozen=True)
class Prior:
    """A histogram over the occupied bins, and for each of them how often each choice had each value."""

    space: SearchSpace
    cost: CostOf
    bins: Bins
    numbers: npt.NDArray[np.int64]
    """`[occupied]`: bin numbers."""
    counts: npt.NDArray[np.int64]
    """`[occupied]`: architectures counted in each bin."""
    cumulative: npt.NDArray[np.int64]
    """`[occupied, choices, values]`: architectures in the bin whose choice has this value or an earlier one."""

    @classmethod
    def counted(cls, space: SearchSpace, cost: CostOf, codes: Codes, bins: Bins) -> "Prior":
        """From codes `[n, choices]` that were drawn uniformly."""
        numbers, places, counts = np.unique(bins.numbers(cost(codes)), return_inverse=True, return_counts=True)
        values = max(len(choice.values) for choice in space.choices)
        flat = [np.bincount(places * values + column, minlength=len(numbers) * values) for column in codes.T]
        cumulative = np.stack([row.reshape(len(numbers), values) for row in flat], axis=1).cumsum(axis=2)
        return cls(space, cost, bins, numbers, counts, cumulative)

    def draw(self, count: int, rng: np.random.Generator) -> list[Arch]:
        """`count` architectures from one bin, which is drawn from the histogram.

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
