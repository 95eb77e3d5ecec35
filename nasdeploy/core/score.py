"""Scores: how good a network is at its task, and the one place that says which of two networks is better."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import exp, inf, isnan, sqrt
from typing import Literal

Aggregate = Literal["proportion", "mean", "whole"]
"""How a score comes from its samples: the part of them that is right, the mean of a number for each, or neither."""

Criterion = Literal["metric", "loss", "divergence", "both"]
"""What networks are ranked by: the task's metric, and among equals the label loss; that loss alone; the divergence of
their outputs from those of the run's original, which tells on every sample and not only on those that change sides; or
the sum of both."""


def compares(criterion: Criterion) -> bool:
    """Return whether a criterion compares outputs with those of an original."""
    return criterion in ("divergence", "both")


@dataclass(frozen=True)
class Metric:
    """What the scores of a task measure, in which direction they are better, and how they are written."""

    key: str
    """The name in JSON files and databases, a Python identifier, e.g. `accuracy`."""
    name: str
    """The name in texts, e.g. `mean absolute error`."""
    maximise: bool
    """Whether larger values are better."""
    best: float
    """The value that no network can beat."""
    aggregate: Aggregate
    """How a score comes from its samples."""
    scale: float = 1.0
    """The factor from values to what is shown, e.g. 100 for per cent."""
    unit: str = ""
    """The unit of what is shown, e.g. `%`."""
    decimals: int = 2
    """How many decimals are shown."""
    loss_key: str = "loss"
    """The name in JSON files and databases of the mean label loss, which decides between equal values."""
    samples: str = "samples"
    """What the samples are called, in the plural: in texts, JSON files and databases."""

    @property
    def is_mean(self) -> bool:
        """Whether scores of parts of the samples add up to that of all, so that a network may be scored in parts."""
        return self.aggregate != "whole"

    @property
    def error_key(self) -> str:
        """The name in JSON files and databases of the standard error."""
        return f"{self.key}_error"

    def regret(self, value: float) -> float:
        """Return how far `value` is from the best one: what is minimised, whatever the direction."""
        return self.best - value if self.maximise else value - self.best

    def gain(self, value: float) -> float:
        """Return `value`, negative where smaller ones are better: what is maximised, whatever the direction."""
        return value if self.maximise else -value

    def lost(self, value: float, before: float) -> float:
        """Return how much worse `value` is than `before`, in the unit that is shown; negative if it is better.

        To nine decimals: 0.74 - 0.73 is a little more than a hundredth in floating point, and what may be lost is not.
        """
        return round(self.scale * (self.gain(before) - self.gain(value)), 9)

    def number(self, value: float) -> str:
        """Return `value` as it stands below `heading`, e.g. `91.25`."""
        return f"{self.scale * value:.{self.decimals}f}"

    def with_error(self, value: float, error: float) -> str:
        """Return `value` and its standard `error` as they stand below `heading`, e.g. `91.25 +- 0.30`."""
        return f"{self.number(value)} +- {self.number(error)}"

    def text(self, value: float) -> str:
        """Return `value` as people read it, e.g. `91.25 %`."""
        return f"{self.number(value)} {self.unit}" if self.unit else self.number(value)

    @property
    def heading(self) -> str:
        """The heading of a column of values, e.g. `accuracy in %`."""
        return f"{self.name} in {self.unit}" if self.unit else self.name


@dataclass(frozen=True)
class Score:
    """How good one network is on a set of samples."""

    metric: Metric
    value: float
    error: float
    """The standard error of `value`, in its unit."""
    samples: int
    loss: float
    """The mean label loss; not a number where the network's outputs were not."""
    divergence: float | None = None
    """The mean divergence of the outputs from the original's, e.g. in nats; None where they were not compared."""
    criterion: Criterion = "metric"
    """What it is ranked by."""

    @property
    def penalty(self) -> float | None:
        """The loss, divergence or sum of them that networks are ranked by, infinite for what is no number.

        None where they are ranked by the metric.
        """
        if self.criterion == "metric":
            return None
        found = self.loss if self.criterion != "divergence" else 0.0
        if compares(self.criterion):
            assert self.divergence is not None  # Whoever ranks by it has it computed.
            found += self.divergence
        return inf if isnan(found) else found

    @property
    def gain(self) -> float:
        """What is maximised: the value, negative where smaller ones are better, or e to the power of -`penalty`.

        The latter is 0..1 as a proportion is, whatever the losses: that of a label loss is the geometric mean of the
        probabilities that the network gives to the right answers.
        """
        return self.metric.gain(self.value) if self.penalty is None else exp(-self.penalty)

    @property
    def regret(self) -> float:
        """What is minimised: how far what is maximised is from the best there is."""
        return self.metric.regret(self.value) if self.penalty is None else 1.0 - self.gain

    @property
    def is_sound(self) -> bool:
        """Whether the network's outputs were numbers."""
        return not isnan(self.loss)

    @property
    def rank(self) -> tuple[float, float]:
        """The key that orders networks, larger for better ones: the value, and among equals the smaller loss; or the
        smaller penalty, and among equals the value."""
        value = self.metric.gain(self.value)
        if self.penalty is not None:
            return -self.penalty, value
        return value, -inf if isnan(self.loss) else -self.loss

    def ties(self, worse: "Score") -> bool:
        """Return whether this value is better than another one by no more than its own standard error."""
        return self.metric.gain(self.value) - self.metric.gain(worse.value) <= self.error

    @property
    def text(self) -> str:
        """The value as people read it."""
        return self.metric.text(self.value)


def proportion(metric: Metric, right: int, samples: int, loss: float) -> Score:
    """Return the score of `right` among `samples`, with the binomial standard error.

    One success and one failure are added for the error (Agresti and Coull, 1998), so that it is never 0.
    """
    smoothed = (right + 1) / (samples + 2)
    return Score(metric, right / samples, sqrt(smoothed * (1 - smoothed) / samples), samples, loss)


def mean_score(metric: Metric, values: Sequence[float], loss: float) -> Score:
    """Return the mean of one value for each sample, with its standard error; infinite for a single sample."""
    count = len(values)
    mean = sum(values) / count
    variance = sum((value - mean) ** 2 for value in values) / (count - 1) if count > 1 else inf
    return Score(metric, mean, sqrt(variance / count), count, loss)


def together(scores: Sequence[Score]) -> Score:
    """Return the score on all samples from those on disjoint parts of them.

    Raises ValueError for a metric that is no mean over samples: its parts say nothing about the whole.
    """
    metric, count = scores[0].metric, sum(score.samples for score in scores)
    if not metric.is_mean:
        raise ValueError(f"{metric.name} of parts of the {metric.samples} do not add up to that of all")
    loss = sum(score.loss * score.samples for score in scores) / count
    parts = [score.divergence * score.samples for score in scores if score.divergence is not None]
    divergence = sum(parts) / count if len(parts) == len(scores) else None
    if metric.aggregate == "proportion":
        whole = proportion(metric, sum(round(score.value * score.samples) for score in scores), count, loss)
    else:
        value = sum(score.value * score.samples for score in scores) / count
        error = sqrt(sum((score.error * score.samples) ** 2 for score in scores)) / count
        whole = Score(metric, value, error, count, loss)
    return replace(whole, divergence=divergence, criterion=scores[0].criterion)
