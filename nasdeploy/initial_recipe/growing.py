"""A first recipe from random weights for little time: the smallest network first, then all, which grow from it.

A step of the sandwich rule takes as long as ten to twenty of the smallest network, and a network that was trained a
little teaches nothing. `tests/benchmarks/bench_phases.py` compares the ways.
"""

from dataclasses import dataclass
from math import ceil

LARGEST_SHARE = 0.2
"""The part of the steps that have the largest network while others grow from the smallest."""
GROWN_RATE = 0.4
"""The part of the learning rate at which the smallest network's phase ends, and that of all networks begins."""
# The first phase's part of the time, and its most epochs.
_SMALLEST_SHARE, _MOST_ALONE = 0.55, 60
# The least of both phases: so many steps, which may take so many epochs of few images.
_FEWEST_STEPS, _FEWEST_ALONE, _FEWEST_GROWN = 300, 3, 2


@dataclass(frozen=True)
class Growth:
    """A training in two phases: the smallest network alone, then all of them, which begin with what it learned."""

    smallest: int
    """The epochs of the smallest network alone."""
    smallest_s: float
    """The seconds of each of them."""
    grown: int
    """The epochs of all networks."""
    grown_s: float
    """The seconds of each of them."""


def growth_within(smallest_s: float, grown_s: float, seconds: float, steps_per_epoch: float) -> Growth:
    """Return phases that take so many seconds, if that is enough for the least epochs."""
    enough = ceil(_FEWEST_STEPS / steps_per_epoch)
    fewest_alone, fewest_grown = min(_FEWEST_ALONE, enough), min(_FEWEST_GROWN, enough)
    alone = min(_SMALLEST_SHARE * seconds, seconds - fewest_grown * grown_s)
    smallest = max(fewest_alone, min(_MOST_ALONE, int(alone / smallest_s)))
    grown = max(fewest_grown, int((seconds - smallest * smallest_s) / grown_s))
    return Growth(smallest, smallest_s, grown, grown_s)
