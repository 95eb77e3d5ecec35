"""Scoring architectures on held-out images as jobs, which this process does in turn or several processes share."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from nasdeploy.core.arch import Arch
from nasdeploy.supernet.evaluate import Score


@dataclass(frozen=True)
class ScoringJob:
    """Scoring an architecture on the held-out images from `first` up to `end`; None: to the last."""

    arch: Arch
    first: int = 0
    end: int | None = None


@dataclass(frozen=True)
class Scored:
    """A job that was done, in so many seconds."""

    job: ScoringJob
    score: Score
    seconds: float


class Scoring(Protocol):
    """What scores architectures: this process, or several."""

    @property
    def images(self) -> int:
        """Number of held-out images; 0 where they cannot be divided."""

    def __call__(self, jobs: Sequence[ScoringJob]) -> Iterator[Scored]:
        """Does all jobs, in any order; gives each as soon as it is done."""


@dataclass(frozen=True)
class InTurn:
    """Scores architectures in this process, one after the other."""

    score: Callable[[ScoringJob], Score]
    images: int = 0

    def __call__(self, jobs: Sequence[ScoringJob]) -> Iterator[Scored]:
        """See `Scoring`."""
        for job in jobs:
            yield timed(job, self.score)


def timed(job: ScoringJob, score: Callable[[ScoringJob], Score]) -> Scored:
    """A job done."""
    began = perf_counter()
    return Scored(job, score(job), perf_counter() - began)
