"""Scoring architectures as jobs, done by this process in turn, or by several that send messages through a store."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from threading import Event, Thread
from time import perf_counter
from types import TracebackType
from typing import Any, Protocol

import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from nasdeploy.core.arch import Arch
from nasdeploy.core.score import Metric, Score
from nasdeploy.core.space import SearchSpace

JOBS, SCORES, FIRST = "jobs", "scores", "first"
"""The queues of the store, and the key of the first process's sign of life."""
ENDED = "ended"
"""The key of the exit code that the first process ends with, and the last thing that the others say."""
BEAT_S = 1.0
"""The seconds between signs of life."""
POLL_S = 0.01
"""The seconds between looks at an empty queue."""


@dataclass(frozen=True)
class ScoringJob:
    """The scoring of an architecture on the held-out samples from `first` up to `end`; None: to the last."""

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
    """Scores architectures, in this process or in several."""

    @property
    def samples(self) -> int:
        """The number of held-out samples; 0 where they cannot be divided."""

    def __call__(self, jobs: Sequence[ScoringJob]) -> Iterator[Scored]:
        """Do all jobs, in any order; each is given as soon as it is done."""


@dataclass(frozen=True)
class InTurn:
    """Scores architectures in this process, one after the other."""

    score: Callable[[ScoringJob], Score]
    samples: int = 0

    def __call__(self, jobs: Sequence[ScoringJob]) -> Iterator[Scored]:
        """See `Scoring`."""
        for job in jobs:
            yield timed(job, self.score)


def timed(job: ScoringJob, score: Callable[[ScoringJob], Score]) -> Scored:
    """Do a job, and tell how long it took."""
    began = perf_counter()
    return Scored(job, score(job), perf_counter() - began)


def beat_key(rank: int) -> str:
    """Return the key under which a process other than the first leaves its signs of life."""
    return f"beat-{rank}"


def pop(store: Store, queue: str) -> dict[str, Any] | None:
    """Take the oldest message from a queue; None if it is empty."""
    try:
        message = store.queue_pop(queue, False)
    except dist.QueueEmptyError:
        return None
    found: dict[str, Any] = json.loads(message)
    return found


def push(store: Store, queue: str, message: Mapping[str, Any]) -> None:
    """Append a message of JSON values to a queue."""
    store.queue_push(queue, json.dumps(message))


def job_message(number: int, job: ScoringJob) -> dict[str, Any]:
    """Return a job with its number, as JSON values."""
    return {"number": number, "arch": job.arch.to_json(), "first": job.first, "end": job.end}


def job_of(message: Mapping[str, Any], space: SearchSpace) -> ScoringJob:
    """Return the job that a message is about."""
    return ScoringJob(space.arch(message["arch"]), message["first"], message["end"])


def score_message(number: int, scored: Scored) -> dict[str, Any]:
    """Return a job's score, as JSON values."""
    return {"number": number, "score": asdict(scored.score), "seconds": scored.seconds}


def scored_of(message: Mapping[str, Any], job: ScoringJob) -> Scored:
    """Return the score that a message brings."""
    score = message["score"]
    return Scored(job, Score(**{**score, "metric": Metric(**score["metric"])}), message["seconds"])


class Heartbeat:
    """Leaves a sign of life in a store each second, from a thread of its own; a context manager.

    It says a count, which is how others see that it changes, and what the process is at. It ends, without a word, when
    the store is gone.
    """

    def __init__(self, store: Store, key: str, about: str = "") -> None:
        # A connection of its own: one is locked while it waits for an answer.
        self._store, self._key, self._about, self._count = store.clone(), key, about, 0
        self._stop = Event()
        self._thread = Thread(target=self._beat, daemon=True)

    def say(self, about: str) -> None:
        """Tell at once what the process is at."""
        self._about = about
        self._set()

    def _beat(self) -> None:
        with suppress(RuntimeError):
            while not self._stop.wait(BEAT_S):
                self._set()

    def _set(self) -> None:
        self._count += 1
        self._store.set(self._key, f"{self._count} {self._about}")

    def __enter__(self) -> "Heartbeat":
        self._set()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
