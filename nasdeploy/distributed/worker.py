"""The processes that are not the first: they do jobs until the search ends."""

from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic, sleep

from torch.distributed.distributed_c10d import PrefixStore, Store

from nasdeploy.core.errors import NasdeployError, UserError
from nasdeploy.core.score import Score
from nasdeploy.core.space import SearchSpace
from nasdeploy.distributed.jobs import (
    ENDED,
    FIRST,
    JOBS,
    POLL_S,
    SCORES,
    Heartbeat,
    ScoringJob,
    beat_key,
    job_of,
    pop,
    push,
    score_message,
    timed,
)

LOST_S = 60.0
"""The seconds without a sign of life after which the first process counts as lost."""
MEETING_S = 300.0
"""The longest wait for its first sign of life, in seconds."""
_LONGEST_POLL_S = 0.2


@dataclass
class CoordinatorWatch:
    """Watches the signs of life of the first process, by the clock of this one."""

    store: Store
    said: str = ""
    _since: float = field(default_factory=monotonic)

    def session(self) -> tuple[str, str]:
        """Return name and supernet of the session that the first process has begun.

        The store may still hold what the first process of an earlier attempt said. So a session counts once its sign
        of life has changed, or once it has ended. Raises `NasdeployError` if nothing comes.
        """
        earlier = ""
        while True:
            said = self.store.get(FIRST).decode() if self.store.check([FIRST]) else ""
            if said:
                _, session, supernet = said.split()
                if (earlier and said != earlier) or PrefixStore(session, self.store).check([ENDED]):
                    self.said, self._since = said, monotonic()
                    return session, supernet
                earlier = said
            self._require_sign(MEETING_S)
            sleep(POLL_S)

    def listen(self) -> None:
        """Raise `NasdeployError` if the first process has said nothing for long, or begun another session."""
        said = self.store.get(FIRST).decode()
        if said != self.said:
            if said.split()[1:] != self.said.split()[1:]:
                raise NasdeployError("the first process of this search was started anew; start this one anew, too")
            self.said, self._since = said, monotonic()
        self._require_sign(LOST_S)

    def _require_sign(self, most: float) -> None:
        if monotonic() - self._since > most:
            raise NasdeployError(
                f"the first process of this search gave no sign of life for {most:.0f} s; see what it said, and repeat "
                "the command, which resumes"
            )


def run_worker(
    store: Store, rank: int, space: SearchSpace, open_score: Callable[[], Callable[[ScoringJob], Score]], supernet: str
) -> int:
    """Score jobs until the first process ends; return the exit code that it ends with.

    `open_score` may take its time; the first process knows already that this one is there.

    An error in a job, or another `supernet` than the first process's, is its to report. Raises `NasdeployError` if it
    is lost; what PyTorch raises where the store is gone is left as it is.
    """
    coordinator = CoordinatorWatch(store)
    session, expected = coordinator.session()
    own = PrefixStore(session, store)
    with Heartbeat(own, beat_key(rank)) as heartbeat:
        if supernet != expected:
            push(own, SCORES, _failure(_differs(rank, supernet, expected)))
        score, pause = open_score(), POLL_S
        while not own.check([ENDED]):
            message = pop(own, JOBS) if supernet == expected else None
            if message is None:
                coordinator.listen()
                sleep(pause)
                # On a machine where latency is measured meanwhile, waiting must not be felt.
                pause = min(2 * pause, _LONGEST_POLL_S)
                continue
            pause, number = POLL_S, message["number"]
            heartbeat.say(str(number))
            try:
                push(own, SCORES, score_message(number, timed(job_of(message, space), score)))
            except NasdeployError as error:
                push(own, SCORES, _failure(error))
            heartbeat.say("")
        heartbeat.say(ENDED)
        return int(own.get(ENDED))


def _failure(error: NasdeployError) -> dict[str, str | int]:
    return {"error": str(error), "exit_code": error.exit_code}


def _differs(rank: int, found: str, expected: str) -> UserError:
    return UserError(
        f"process {rank} sees other weights, images or settings than the first one (supernet {found}, not {expected}); "
        "all hosts have to see the same run directory, and data"
    )
