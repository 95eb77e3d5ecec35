"""How two networks differ on the same samples, sample by sample.

What is hard for one network is mostly hard for the other, too: differences have a far smaller standard error than
either score, so that networks are told apart by them that scores do not tell apart.
"""

from dataclasses import dataclass
from math import inf, sqrt

import numpy as np

from nasdeploy.core.costs import Floats
from nasdeploy.core.score import Criterion, Metric


@dataclass(frozen=True)
class SampleScores:
    """What a network is worth on each of some samples, in their order."""

    metric: Metric
    values: Floats
    """The values `[N]`, whose mean is the score; 1 and 0 where that is a proportion."""
    losses: Floats
    """The label losses `[N]`."""


@dataclass(frozen=True)
class PairedDifference:
    """The score and the loss of a network less those of another one on the same samples."""

    metric: Metric
    value: float
    error: float
    """The standard error of `value`."""
    loss: float
    loss_error: float
    """The standard error of `loss`."""

    def is_no_worse(self, criterion: Criterion) -> bool:
        """Return whether the network is worse by no more than one standard error.

        Where networks are not ranked by the metric, that has to hold for their losses, too.
        """
        alike = self.metric.gain(self.value) >= -self.error
        return alike and (criterion == "metric" or self.loss <= self.loss_error)


def paired_difference(of: SampleScores, to: SampleScores) -> PairedDifference:
    """Return how far the scores of a network are above those `to` which they are compared, on the same samples."""
    values, losses = of.values - to.values, of.losses - to.losses
    is_proportion = of.metric.aggregate == "proportion"
    return PairedDifference(
        of.metric,
        float(values.mean()),
        _error_of_sides(values) if is_proportion else _standard_error(values),
        float(losses.mean()),
        _standard_error(losses),
    )


def _standard_error(differences: Floats) -> float:
    """Return the standard error of the mean of differences `[N]`; infinite for a single one."""
    return float(differences.std(ddof=1)) / sqrt(len(differences)) if len(differences) > 1 else inf


def _error_of_sides(differences: Floats) -> float:
    """Return the standard error of the mean of differences `[N]` of -1, 0 and 1.

    Half a sample is added to each of the four cases of right and wrong (Agresti and Min, 2005), so that it is never 0.
    """
    count = len(differences) + 2
    squares = float(np.square(differences).sum()) + 1.0
    return sqrt(squares - float(differences.sum()) ** 2 / count) / count
