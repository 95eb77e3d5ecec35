"""Several processes pull jobs; here they are threads with connections of their own."""

import json
from collections.abc import Callable
from contextlib import suppress
from threading import Thread, get_ident
from time import sleep

import numpy as np
import pytest
from torch.distributed import TCPStore
from torch.distributed.distributed_c10d import PrefixStore, Store

from nasdeploy.core.errors import NasdeployError, UserError
from nasdeploy.core.score import Score
from nasdeploy.distributed import coordinator as first
from nasdeploy.distributed import jobs as messages
from nasdeploy.distributed import worker as others
from nasdeploy.distributed.coordinator import LostWith, PulledScoring, leading
from nasdeploy.distributed.jobs import FIRST, JOBS, SCORES, ScoringJob, pop, push, score_message
from nasdeploy.distributed.worker import run_worker
from tests.latency.tables import SPACE
from tests.searching.accuracy import score as accuracy

ARCHS = SPACE.decode(np.unique(SPACE.sample_codes(100, np.random.default_rng(0)), axis=0))[:12]
JOBS_ASKED = [ScoringJob(arch) for arch in ARCHS]


def score(job: ScoringJob) -> Score:
    sleep(0.01)
    return accuracy(job.arch)


class Dies(BaseException):
    """The end of a process, as far as threads can have one."""


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(messages, "BEAT_S", 0.05)
    monkeypatch.setattr(first, "DEAD_S", 0.4)
    monkeypatch.setattr(first, "_UNCLAIMED_S", 0.1)
    return TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)


class Worker:
    """A process beside the first."""

    def __init__(
        self,
        store: Store,
        rank: int,
        score: Callable[[ScoringJob], Score] = score,
        supernet: str = "net",
        opening: Callable[[], Callable[[ScoringJob], Score]] | None = None,
    ) -> None:
        self.code: int | None = None
        self.error: NasdeployError | None = None
        self._given = (store.clone(), rank, SPACE, opening or (lambda: score), supernet)
        self.thread = Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        with suppress(Dies):
            try:
                self.code = run_worker(*self._given)
            except NasdeployError as error:
                self.error = error

    def end(self) -> int | None:
        self.thread.join(10)
        assert not self.thread.is_alive()
        return self.code


def pulled(
    store: Store, world: int, say: Callable[[str], None] = print, own: Callable[[ScoringJob], Score] = score
) -> PulledScoring:
    return PulledScoring(store=store, world=world, score=own, samples=0, say=say)


def test_all_jobs_are_done_once_by_all_processes(store: Store) -> None:
    by: list[int] = []

    def noted(job: ScoringJob) -> Score:
        by.append(get_ident())
        return score(job)

    workers = [Worker(store, rank, noted) for rank in (1, 2)]
    with leading(store, 3, "net") as session:
        scoring = pulled(session, 3, own=noted)
        for _ in range(2):
            found = {scored.job: scored.score for scored in scoring(JOBS_ASKED)}
            assert found == {job: accuracy(job.arch) for job in JOBS_ASKED}
    assert [worker.end() for worker in workers] == [0, 0]
    assert len(by) == 2 * len(JOBS_ASKED)
    assert len(set(by)) == 3


def test_a_slow_process_holds_the_others_up_for_one_job(store: Store) -> None:
    slow: list[ScoringJob] = []

    def slowly(job: ScoringJob) -> Score:
        slow.append(job)
        sleep(0.5)
        return accuracy(job.arch)

    worker = Worker(store, 1, slowly)
    with leading(store, 2, "net") as session:
        sleep(0.3)
        assert len(list(pulled(session, 2)(JOBS_ASKED))) == len(JOBS_ASKED)
    assert worker.end() == 0
    assert len(slow) == 1


def test_a_process_that_dies_costs_the_job_that_it_was_at(store: Store) -> None:
    lost: list[ScoringJob] = []
    said: list[str] = []

    def dies(job: ScoringJob) -> Score:
        lost.append(job)
        raise Dies

    Worker(store, 1, dies)
    healthy = Worker(store, 2)
    with leading(store, 3, "net") as session:
        sleep(0.3)
        found = {scored.job: scored.score for scored in pulled(session, 3, said.append)(JOBS_ASKED)}
    assert found == {job: accuracy(job.arch) for job in JOBS_ASKED}
    assert len(lost) == 1
    digest = lost[0].arch.digest
    assert said == [f"a process was lost; network {digest}, which it was at, is evaluated again"]
    assert healthy.end() == 0


def test_a_network_that_ends_one_process_after_the_other_is_given_up(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first, "pop", lambda store, queue: pop(store, queue) and None)
    said: list[str] = []
    with pytest.raises(LostWith, match=rf"^3 processes died .* network {ARCHS[0].digest}; see what they said"):
        list(pulled(store, 2, said.append)(JOBS_ASKED[:1]))
    assert len(said) == 2


def test_a_score_that_comes_twice_counts_once(store: Store) -> None:
    scoring = pulled(store, 1)
    for _ in range(2):
        push(store, SCORES, score_message(0, next(pulled(store, 1)(JOBS_ASKED[:1]))))
    assert [scored.job for scored in scoring(JOBS_ASKED[:3])] == JOBS_ASKED[:3]
    push(store, SCORES, score_message(0, next(pulled(store, 1)(JOBS_ASKED[:1]))))
    assert [scored.job for scored in scoring(JOBS_ASKED[3:5])] == JOBS_ASKED[3:5]


def test_what_a_process_cannot_score_for_ends_all_with_its_exit_code(store: Store) -> None:
    def fails(job: ScoringJob) -> Score:
        raise UserError("picture.jpg: damaged")

    worker = Worker(store, 1, fails)

    def ends() -> None:
        with leading(store, 2, "net") as session:
            sleep(0.3)
            list(pulled(session, 2)(JOBS_ASKED))

    with pytest.raises(NasdeployError, match=r"^picture\.jpg: damaged$") as caught:
        ends()
    assert caught.value.exit_code == 2
    assert worker.end() == 2


def test_a_process_with_another_supernet_is_refused(store: Store) -> None:
    worker = Worker(store, 1, supernet="other")

    def ends() -> None:
        with leading(store, 2, "net") as session:
            sleep(0.3)
            list(pulled(session, 2)(JOBS_ASKED))

    message = (
        r"^process 1 sees other weights, images or settings than the first one \(supernet other, not net\); all hosts"
    )
    with pytest.raises(NasdeployError, match=message):
        ends()
    assert worker.end() == 2


def test_a_first_process_without_signs_of_life_is_lost(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(others, "LOST_S", 0.3)
    monkeypatch.setattr(others, "MEETING_S", 0.3)
    never = Worker(store, 1)
    never.end()
    assert str(never.error).startswith(
        "the first process of this search gave no sign of life for 0 s; see what it said"
    )
    later = Worker(store, 1)
    store.set(FIRST, "1 session net")
    sleep(0.1)
    store.set(FIRST, "2 session net")
    later.end()
    assert later.error is not None


def test_what_an_earlier_attempt_left_in_the_store_is_not_obeyed(store: Store) -> None:
    store.set(FIRST, "7 before net")
    push(PrefixStore("before", store), JOBS, {"number": 0, "arch": json.loads(ARCHS[0].text), "first": 0, "end": None})
    worker = Worker(store, 1)
    sleep(0.2)
    with leading(store, 2, "net") as session:
        assert len(list(pulled(session, 2)(JOBS_ASKED))) == len(JOBS_ASKED)
    assert worker.end() == 0
    assert pop(PrefixStore("before", store), SCORES) is None


def test_who_is_slow_to_open_is_waited_for_and_ends_like_the_first(store: Store) -> None:
    def slowly() -> Callable[[ScoringJob], Score]:
        sleep(3 * first.DEAD_S)
        return score

    worker = Worker(store, 1, opening=slowly)

    def ends() -> None:
        with leading(store, 2, "net"):
            sleep(0.2)
            raise UserError("search.sqlite: damaged")

    with pytest.raises(UserError):
        ends()
    worker.thread.join(0.5)
    assert worker.code == 2
