"""Evaluating once, and successive halving."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import isnan, nan
from pathlib import Path

import numpy as np
import pytest

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.score import Metric, Score, proportion
from nasdeploy.distributed.jobs import InTurn, Scored, ScoringJob
from nasdeploy.searching.search import Evaluating, rungs
from nasdeploy.store.evaluations import Evaluation, Evaluations
from nasdeploy.tasks.metrics import TOP1
from tests.latency.tables import SPACE

IMAGES = 64
ARCHS = SPACE.decode(np.unique(SPACE.sample_codes(200, np.random.default_rng(0)), axis=0))[:16]


class Answers:
    """Which images each of some networks gets right, drawn once; `jobs` are those that were asked for."""

    samples = IMAGES

    def __init__(self, archs: Sequence[Arch] = ARCHS) -> None:
        rng = np.random.default_rng(1)
        self.right = {arch: rng.random(IMAGES) < 0.2 + 0.7 * i / len(archs) for i, arch in enumerate(archs)}
        self.jobs: list[ScoringJob] = []
        self.most = 10**9

    def score(self, job: ScoringJob) -> Score:
        part = self.right[job.arch][job.first : job.end]
        return proportion(TOP1, int(part.sum()), len(part), 2 - float(part.mean()))

    def __call__(self, jobs: Sequence[ScoringJob]) -> Iterator[Scored]:
        for job in jobs:
            if len(self.jobs) == self.most:
                raise KeyboardInterrupt
            self.jobs.append(job)
            yield Scored(job, self.score(job), 1.0)


def evaluations(path: Path) -> Evaluations:
    path.mkdir(exist_ok=True)
    return Evaluations(path / "s.sqlite", "net", TOP1)


@pytest.mark.parametrize(
    ("images", "count", "expected"), [(64, 1, []), (64, 3, [16, 32]), (3, 4, [1]), (0, 3, []), (1, 3, [])]
)
def test_rungs_double_up_to_all_images(images: int, count: int, expected: list[int]) -> None:
    assert rungs(images, count) == expected


def test_half_of_the_networks_go_on_at_each_rung(tmp_path: Path) -> None:
    answers, seen = Answers(), []
    with evaluations(tmp_path) as kept:
        found = Evaluating(answers, kept, 3, seen.append)(ARCHS)
        assert [evaluation.digest for evaluation in found] == [arch.digest for arch in ARCHS]
        assert sorted(evaluation.score.samples for evaluation in found) == [16] * 8 + [32] * 4 + [64] * 4
        assert {evaluation.digest for evaluation in kept.all()} == {e.digest for e in found if e.whole}
        assert {evaluation.digest for evaluation in kept.stopped()} == {e.digest for e in found if not e.whole}
    assert sorted(seen, key=str) == sorted(found, key=str)
    # Each image of each network at most once: 16 networks on 16 images, 8 on 16 more, 4 on 32 more.
    assert sum((job.end or IMAGES) - job.first for job in answers.jobs) == 16 * 16 + 8 * 16 + 4 * 32
    for evaluation, arch in zip(found, ARCHS, strict=True):
        assert evaluation.score.value == answers.right[arch][: evaluation.score.samples].mean()
        assert evaluation.score.loss == pytest.approx(2 - evaluation.score.value)
        assert evaluation.whole == (evaluation.score.samples == IMAGES)
    stopped_first = max(e.score.value for e in found if e.score.samples == 16)
    assert all(
        answers.right[a][:16].mean() >= stopped_first for a, e in zip(ARCHS, found, strict=True) if e.score.samples > 16
    )


@pytest.mark.parametrize("most", range(0, 28, 3))
def test_halving_that_was_stopped_goes_on_in_the_same_way(tmp_path: Path, most: int) -> None:
    answers, disturbed = Answers(), Answers()
    with evaluations(tmp_path / "calm") as kept:
        expected = Evaluating(answers, kept, 3)(ARCHS)
    disturbed.most = most
    with evaluations(tmp_path) as kept, pytest.raises(KeyboardInterrupt):
        Evaluating(disturbed, kept, 3)(ARCHS)
    disturbed.most = 10**9
    with evaluations(tmp_path) as kept:
        assert Evaluating(disturbed, kept, 3)(ARCHS) == expected
    assert disturbed.jobs == answers.jobs


def test_a_stopped_network_is_completed_from_where_it_was_stopped(tmp_path: Path) -> None:
    answers = Answers()
    with evaluations(tmp_path) as kept:
        evaluating = Evaluating(answers, kept, 3)
        found = evaluating(ARCHS)
        stopped = [arch for arch, evaluation in zip(ARCHS, found, strict=True) if not evaluation.whole]
        answers.jobs.clear()
        completed = evaluating.completed(ARCHS)
        assert all(evaluation.whole and evaluation.score.samples == IMAGES for evaluation in completed)
        assert {(job.arch, job.end) for job in answers.jobs} == {(arch, None) for arch in stopped}
        assert all(job.first in (16, 32) for job in answers.jobs)
        for evaluation, arch in zip(completed, ARCHS, strict=True):
            assert evaluation.score.value == answers.right[arch].mean()
        assert kept.stopped() == []
        answers.jobs.clear()
        # A search that goes on takes the same way again; one that does not halve knows everything.
        assert evaluating(ARCHS) == found
        assert Evaluating(answers, kept)(ARCHS) == completed
        assert answers.jobs == []


def test_the_same_architecture_twice_is_evaluated_once(tmp_path: Path) -> None:
    answers = Answers()
    with evaluations(tmp_path) as kept:
        one, same = Evaluating(answers, kept)([ARCHS[0], ARCHS[0]])
    assert one == same
    assert answers.jobs == [ScoringJob(ARCHS[0])]


@pytest.mark.parametrize("broken", [Score(TOP1, 0.5, 0.1, 10, nan), Score(TOP1, nan, nan, 10, nan)])
def test_a_network_without_numbers_is_named_and_kept(tmp_path: Path, broken: Score) -> None:
    said: list[str] = []
    with evaluations(tmp_path) as kept:
        (found,) = Evaluating(InTurn(lambda job: broken), kept, say=said.append)([ARCHS[0]])
        (again,) = kept.all()
    assert isnan(found.score.loss) and not isnan(found.score.value)
    assert replace(again, score=replace(again.score, loss=0.0)) == replace(found, score=replace(found.score, loss=0.0))
    assert said == [f"network {ARCHS[0].digest} gives logits that are no numbers (NaN) and cannot win: {ARCHS[0].text}"]


def test_every_evaluation_is_kept_before_the_next_begins(tmp_path: Path) -> None:
    with evaluations(tmp_path) as kept:
        counts: list[int] = []

        def score(job: ScoringJob) -> Score:
            counts.append(len(kept.all()))
            return Score(TOP1, 0.5, 0.1, 10, 1.0)

        done: list[Evaluation] = []
        Evaluating(InTurn(score), kept, done=done.append)(ARCHS)
        assert counts == list(range(16))
        assert done == kept.all()


def test_a_metric_that_is_no_mean_is_refused_in_one_line(tmp_path: Path) -> None:
    whole = Metric("cost", "cost", maximise=False, best=0.0, aggregate="whole")
    with Evaluations(tmp_path / "s.sqlite", "net", whole) as kept:
        Evaluating(InTurn(lambda job: Score(whole, 1.0, 0.1, 10, 1.0)), kept)
        with pytest.raises(UserError, match=r"^search\.halving is 3: cost of a part of the samples says nothing about"):
            Evaluating(InTurn(lambda job: Score(whole, 1.0, 0.1, 10, 1.0)), kept, count=3)
