"""The first process of several: hands out jobs, does some itself, and notices who is gone."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic, sleep
from uuid import uuid4

from torch.distributed.distributed_c10d import PrefixStore, Store

from nasdeploy.core.errors import Interrupted, NasdeployError
from nasdeploy.core.score import Score
from nasdeploy.distributed.jobs import (
    ENDED,
    FIRST,
    JOBS,
    POLL_S,
    SCORES,
    Heartbeat,
    Scored,
    ScoringJob,
    beat_key,
    job_message,
    pop,
    push,
    scored_of,
    timed,
)

DEAD_S = 10.0
"""The seconds without a sign of life after which a process counts as dead."""
_UNCLAIMED_S = 2.0
"""The seconds for which a job may be in no queue and with nobody, between being pulled and being told of."""
_MOST_LOST = 3
"""The number of processes that may die over one architecture before it is given up."""


class LostWith(NasdeployError):
    """An architecture at which one process after the other died."""


@dataclass
class WorkerWatch:
    """Watches the signs of life of the other processes, by the clock of this one."""

    store: Store
    world: int
    _seen: dict[int, tuple[str, float]] = field(default_factory=dict)

    def jobs(self) -> set[int]:
        """Return the numbers of the jobs that living processes are at."""
        found = set()
        for rank in range(1, self.world):
            said, since = self._heard(rank)
            about = said.partition(" ")[2]
            if about.isdigit() and monotonic() - since < DEAD_S:
                found.add(int(about))
        return found

    def wait_for_end(self) -> None:
        """Go on when all others have said that they leave, or have said nothing for long."""
        began = monotonic()
        while any(self._is_awaited(rank, began) for rank in range(1, self.world)):
            sleep(POLL_S)

    def _is_awaited(self, rank: int, began: float) -> bool:
        said, since = self._heard(rank)
        return not said.endswith(ENDED) and monotonic() - max(since, began) < DEAD_S

    def _heard(self, rank: int) -> tuple[str, float]:
        """Return what a process said last, and since when it is known; an empty text of one that never came."""
        said = self.store.get(beat_key(rank)).decode() if self.store.check([beat_key(rank)]) else ""
        if rank not in self._seen or self._seen[rank][0] != said:
            self._seen[rank] = (said, monotonic())
        return self._seen[rank]


@dataclass
class PulledScoring:
    """Scores jobs by all processes of a run (`Scoring`)."""

    store: Store
    world: int
    score: Callable[[ScoringJob], Score]
    samples: int
    say: Callable[[str], None]
    _workers: WorkerWatch = field(init=False)
    _next: int = 0
    _lost: dict[int, int] = field(default_factory=dict)
    _unclaimed: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._workers = WorkerWatch(self.store, self.world)

    def __call__(self, jobs: Sequence[ScoringJob]) -> Iterator[Scored]:
        """See `Scoring`. Raises what another process could not score for, and `LostWith`."""
        missing = {self._next + place: job for place, job in enumerate(jobs)}
        self._next += len(jobs)
        self._lost.clear()
        for number, job in missing.items():
            push(self.store, JOBS, job_message(number, job))
        while missing:
            yield from self._received(missing)
            message = pop(self.store, JOBS)
            if message is None:
                self._hand_out_again(missing)
                sleep(POLL_S)
            elif message["number"] in missing:
                yield timed(missing.pop(message["number"]), self.score)

    def _received(self, missing: dict[int, ScoringJob]) -> Iterator[Scored]:
        """Give the scores that the others have sent, each once, however often a job was handed out."""
        while (message := pop(self.store, SCORES)) is not None:
            if "error" in message:
                error = NasdeployError(message["error"])
                error.exit_code = message["exit_code"]
                raise error
            if message["number"] in missing:
                yield scored_of(message, missing.pop(message["number"]))

    def _hand_out_again(self, missing: dict[int, ScoringJob]) -> None:
        """Queue the jobs that are neither in the queue, which is empty, nor with a living process."""
        taken, now = self._workers.jobs(), monotonic()
        for number, job in missing.items():
            if number in taken:
                self._unclaimed.pop(number, None)
            elif now - self._unclaimed.setdefault(number, now) > _UNCLAIMED_S:
                del self._unclaimed[number]
                self._count_loss(number, job)
                push(self.store, JOBS, job_message(number, job))

    def _count_loss(self, number: int, job: ScoringJob) -> None:
        self._lost[number] = self._lost.get(number, 0) + 1
        if self._lost[number] >= _MOST_LOST:
            raise LostWith(
                f"{_MOST_LOST} processes died one after the other while they evaluated network {job.arch.digest}; see "
                f"what they said (memory?): {job.arch.text}"
            )
        self.say(f"a process was lost; network {job.arch.digest}, which it was at, is evaluated again")


@contextmanager
def leading(store: Store, world: int, supernet: str) -> Iterator[Store]:
    """Open a new session of the processes that share `store`, which are told how it ends; give its own store."""
    session = uuid4().hex
    own = PrefixStore(session, store)
    with Heartbeat(store, FIRST, f"{session} {supernet}"):
        try:
            yield own
        except KeyboardInterrupt:
            _end(own, Interrupted.exit_code)
            raise
        except Exception as error:
            # Whoever is gone may be the reason of it.
            with suppress(RuntimeError):
                _end(own, error.exit_code if isinstance(error, NasdeployError) else NasdeployError.exit_code)
                WorkerWatch(own, world).wait_for_end()
            raise
        _end(own, 0)
        WorkerWatch(own, world).wait_for_end()


def _end(session: Store, code: int) -> None:
    session.set(ENDED, str(code))
