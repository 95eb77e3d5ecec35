"""What a search came to: its candidates, finalists and winner, and how the finalists that meet the budget compare.

Scores are compared sample by sample where it is known what each network is worth on each; else by the standard error of
the better one. Torch-free.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nasdeploy.core.arch import Arch
from nasdeploy.core.paired import PairedDifference, SampleScores, paired_difference
from nasdeploy.core.score import Score
from nasdeploy.latency.protocol import Timing
from nasdeploy.latency.table import LatencyTable
from nasdeploy.searching.predictors.predictor import FittedPredictor
from nasdeploy.searching.problem import Candidate
from nasdeploy.store.evaluations import Evaluation

Timings = Mapping[str, Mapping[Arch, Timing]]
"""The timings by device, of whole networks."""


@dataclass(frozen=True)
class FinalistComparison:
    """What finalists that meet the budget are compared by; all of them have a score and a cost."""

    scores: Mapping[Arch, Score]
    """The scores of the networks as they are deployed."""
    costs: Mapping[Arch, float]
    """What a front is drawn over: the latency on the first device, or a cost of the network where there is none."""
    timings: Mapping[Arch, Timing] = field(default_factory=dict)
    """What was measured on the first device; nothing without one."""
    samples: Mapping[Arch, SampleScores] = field(default_factory=dict)
    """What the networks are worth on each of the held-out samples, where that is known."""

    @classmethod
    def of(
        cls,
        fitting: Sequence[Candidate],
        axis: str,
        deployed: Mapping[Arch, Evaluation],
        timings: Mapping[Arch, Timing],
        samples: Mapping[Arch, SampleScores],
    ) -> "FinalistComparison":
        """Return the comparison of finalists by their costs on `axis`, and by their scores where they are deployed."""
        return cls(
            {one.arch: deployed.get(one.arch, one.evaluation).score for one in fitting},
            {one.arch: one.costs[axis] for one in fitting},
            timings,
            samples,
        )

    def difference(self, arch: Arch, to: Arch) -> PairedDifference | None:
        """Return how far the scores of a network are above another's, sample by sample; None if that is not known."""
        if arch not in self.samples or to not in self.samples:
            return None
        return paired_difference(self.samples[arch], self.samples[to])

    def ties(self, best: Arch, other: Arch) -> bool:
        """Return whether a network is worse than the best one by no more than one standard error."""
        difference = self.difference(other, best)
        if difference is None:
            return self.scores[best].ties(self.scores[other])
        return difference.is_no_worse(self.scores[best].criterion)

    def faster(self, best: Arch) -> Arch | None:
        """Return the fastest network that is told to be faster than the best one and is no worse; None if none is."""
        found = [arch for arch in self.scores if self._is_faster(arch, best) and self.ties(best, arch)]
        return min(found, key=self._cost, default=None)

    def _is_faster(self, arch: Arch, than: Arch) -> bool:
        if arch in self.timings and than in self.timings and self.timings[arch].ties(self.timings[than]):
            return False
        return self._cost(arch) < self._cost(than)

    def _cost(self, arch: Arch) -> float:
        """Return the measured latency on the first device, or what the network costs where there is none."""
        return self.timings[arch].median if arch in self.timings else self.costs[arch]


@dataclass(frozen=True)
class Outcome:
    """What a search found: all candidates by rank, the finalists by rank, and the winner among them."""

    candidates: list[Candidate]
    finalists: list[Candidate]
    fitting: list[Candidate]
    """The finalists that meet the budget by rank, but for the winner, which is the first."""
    best: Candidate
    """The first of them by rank: the winner, but where a faster one is preferred that is no worse."""
    comparison: FinalistComparison
    """How those compare that meet the budget."""
    timings: Timings
    """The timings of all finalists that were ever measured; empty without a latency budget."""
    tables: Sequence[LatencyTable]
    """The tables as corrected by what was measured."""
    rounds: int
    deployed: Mapping[Arch, Evaluation] = field(default_factory=dict)
    """Accuracies of those that fit as their device computes them; empty where it does so as the supernet does."""
    predictor: FittedPredictor | None = None
    """The last that a strategy fitted to accuracies."""

    @property
    def winner(self) -> Candidate:
        """The best that meets the budget, or a faster one that is no worse."""
        return self.fitting[0]
