"""The whole loop: evolve, measure finalists on a made-up device, correct the table, until the budget is met."""

from dataclasses import replace

import numpy as np
import pytest

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import InfeasibleBudget, UserError
from nasdeploy.core.progress import Progress
from nasdeploy.core.score import Score, proportion
from nasdeploy.distributed.jobs import InTurn
from nasdeploy.searching.search import Search
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.store.evaluations import Evaluations
from nasdeploy.tasks.metrics import TOP1
from tests.latency.tables import SPACE, table, timing
from tests.searching.accuracy import score
from tests.searching.budgets import budget_of

TABLE = table()

SETTINGS = SearchSettings(rounds=4, parents=20, mutations=6, crossovers=6, buckets=10, finalists=4, reserve=0.0)


class Device:
    """A device on which a network takes `factor` times what the table says."""

    def __init__(self, factor: float) -> None:
        self.factor, self.measured = factor, []

    def seconds(self, arch: Arch) -> float:
        return self.factor * TABLE.predict(SPACE.plan(arch)).seconds

    def __call__(self, device, archs):
        assert device == "cpu"
        self.measured.extend(archs)
        return {arch: timing(self.seconds(arch)) for arch in archs}


def middle() -> float:
    fastest, slowest = TABLE.range(SPACE)
    return fastest + 0.5 * (slowest - fastest)


def search(tmp_path, device, settings=SETTINGS, scorer=score, latency=None, budget=None, known=TABLE):
    tmp_path.mkdir(exist_ok=True)
    with Evaluations(tmp_path / "search.sqlite", "supernet", TOP1) as evaluations:
        task = Search(
            space=SPACE,
            scoring=scorer if isinstance(scorer, InTurn) else InTurn(lambda job: scorer(job.arch)),
            evaluations=evaluations,
            budget=budget or budget_of(latency=latency or middle()),
            tables=() if budget else (known,),
            measure=device,
            settings=settings,
            seed=0,
            progress=Progress(quiet=True),
        )
        return task.run(), evaluations.all()


def test_winner_is_the_most_accurate_that_fits(tmp_path):
    device = Device(1.0)
    outcome, _ = search(tmp_path, device)
    assert outcome.rounds == 1
    assert device.seconds(outcome.winner.arch) <= middle()
    assert outcome.winner.rank == max(candidate.rank for candidate in outcome.candidates)
    assert {c.arch for c in outcome.finalists} == set(outcome.timings["cpu"]) == set(device.measured)


def test_a_device_slower_than_its_table_takes_more_rounds_and_corrects_it(tmp_path):
    device = Device(1.6)
    outcome, _ = search(tmp_path, device)
    assert 1 < outcome.rounds <= 5
    assert device.seconds(outcome.winner.arch) <= middle()
    before = abs(TABLE.predict(SPACE.plan(outcome.winner.arch)).seconds / device.seconds(outcome.winner.arch) - 1)
    after = abs(
        outcome.tables[0].predict(SPACE.plan(outcome.winner.arch)).seconds / device.seconds(outcome.winner.arch) - 1
    )
    assert after < before


def test_a_device_twice_as_slow_is_learned_in_two_rounds(tmp_path):
    device = Device(2.0)
    outcome, _ = search(tmp_path, device)
    assert outcome.rounds == 2
    assert device.seconds(outcome.winner.arch) <= middle()


def test_nothing_is_measured_twice(tmp_path):
    device = Device(1.3)
    search(tmp_path, device)
    assert len(set(device.measured)) == len(device.measured)


def test_a_device_that_never_meets_the_budget_ends_in_exit_code_3(tmp_path):
    with pytest.raises(
        InfeasibleBudget,
        match=r"cpu took 50\.00 to 50\.00 times as long as its table says for all \d of them.*workflows\.table\.check",
    ):
        search(tmp_path, Device(50.0))


def test_reserve_keeps_a_part_of_the_budget_free(tmp_path):
    device = Device(1.0)
    outcome, _ = search(tmp_path, device, replace_settings(reserve=0.1))
    assert device.seconds(outcome.winner.arch) <= 0.9 * middle()


def replace_settings(**changes):
    return SETTINGS.model_copy(update=changes)


def test_an_interrupted_search_goes_on_without_evaluating_anything_again(tmp_path):
    undisturbed, expected = search(tmp_path / "whole", Device(1.0))
    calls = []

    def interrupted(arch):
        if len(calls) == 17:
            raise KeyboardInterrupt
        calls.append(arch)
        return score(arch)

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, Device(1.0), scorer=interrupted)
    again = []

    def counted(arch):
        again.append(arch)
        return score(arch)

    outcome, evaluations = search(tmp_path, Device(1.0), scorer=counted)
    assert not set(calls) & set(again)
    assert len(calls) + len(again) == len(evaluations) == len(expected)
    assert outcome.winner.arch == undisturbed.winner.arch


def test_a_second_budget_uses_earlier_evaluations(tmp_path):
    search(tmp_path, Device(1.0))
    seen = []

    def counted(arch):
        seen.append(arch)
        return score(arch)

    outcome, evaluations = search(tmp_path, Device(1.0), scorer=counted, latency=0.9 * middle())
    assert len(seen) < len(evaluations)
    assert len(outcome.candidates) > len(seen)


def test_without_latency_nothing_is_measured(tmp_path):
    device = Device(1.0)
    outcome, _ = search(tmp_path, device, budget=budget_of(macs=200.0))
    assert device.measured == []
    assert SPACE.plan(outcome.winner.arch).macs <= 200
    assert (list(outcome.tables), outcome.timings) == ([], {})


def test_the_fastest_network_itself_is_within_reach(tmp_path):
    # In this one the sum over the fastest network's slots is rounded up.
    rounded = table(seed=4)
    fastest, _ = rounded.range(SPACE)
    outcome, evaluations = search(tmp_path, Device(0.5), latency=fastest, known=rounded)
    assert len(evaluations) == 1
    assert rounded.predict(SPACE.plan(outcome.winner.arch)).seconds == pytest.approx(fastest)


def test_not_a_number_ranks_last(tmp_path):
    def broken(arch):
        good = score(arch)
        return replace(good, value=0.0, loss=float("nan")) if arch["depth"] == 1 else good

    outcome, _ = search(tmp_path, Device(1.0), scorer=broken)
    assert outcome.winner.arch["depth"] > 1


def test_with_successive_halving_winner_and_front_are_whole_and_finalists_completed(tmp_path):
    images, rng = 64, np.random.default_rng(0)
    right = {}

    def part(job):
        if job.arch not in right:
            right[job.arch] = rng.random(images) < score(job.arch).value
        answers = right[job.arch][job.first : job.end]
        return proportion(TOP1, int(answers.sum()), len(answers), 1.0)

    settings = replace_settings(halving=3)
    outcome, evaluations = search(tmp_path, Device(1.0), settings, InTurn(part, images))
    assert all(candidate.evaluation.whole for candidate in [*outcome.candidates, *outcome.finalists])
    assert {evaluation.score.samples for evaluation in evaluations} == {images}
    with Evaluations(tmp_path / "search.sqlite", "supernet", TOP1) as kept:
        stopped = kept.stopped()
    assert stopped
    # None that was stopped looks better than the last finalist: it would have been completed.
    assert max(evaluation.score.value for evaluation in stopped) <= outcome.finalists[-1].evaluation.score.value
    for candidate in outcome.finalists:
        assert candidate.evaluation.score.value == right[candidate.arch].mean()


def test_a_network_without_numbers_cannot_win_and_none_but_such_ends_in_a_line(tmp_path):
    def broken(arch):
        return replace(score(arch), value=1.0, loss=float("nan")) if arch["depth"] == 1 else score(arch)

    outcome, _ = search(tmp_path / "some", Device(1.0), scorer=broken)
    assert all(candidate.arch["depth"] > 1 for candidate in outcome.candidates)
    with pytest.raises(UserError, match=r"^no network of the supernet gives numbers \(NaN\): its training failed"):
        search(tmp_path / "all", Device(1.0), scorer=lambda arch: Score(TOP1, 0.1, 0.1, 10, float("nan")))
