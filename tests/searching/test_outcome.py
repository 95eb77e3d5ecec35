"""The finalists that meet a budget, compared sample by sample, and the faster one that may be preferred."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nasdeploy.core.arch import Arch
from nasdeploy.core.paired import SampleScores
from nasdeploy.core.progress import Progress
from nasdeploy.core.score import proportion
from nasdeploy.distributed.jobs import InTurn
from nasdeploy.latency.protocol import Timing
from nasdeploy.searching.outcome import FinalistComparison, Outcome
from nasdeploy.searching.problem import Candidate, ranked
from nasdeploy.searching.search import Search
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.store.evaluations import Evaluation, Evaluations
from nasdeploy.tasks.metrics import TOP1
from tests.latency.tables import SPACE, archs, table, timing
from tests.searching.accuracy import score
from tests.searching.budgets import budget_of

BEST, SLOWER, NEAR, FASTER, FASTEST = archs()[:5]
SECONDS = {BEST: 1.0, SLOWER: 1.2, NEAR: 0.99, FASTER: 0.8, FASTEST: 0.5}
SAMPLES = 400
SMALL = {"rounds": 2, "parents": 20, "mutations": 6, "crossovers": 6, "finalists": 5, "reserve": 0.0}


def worth(right: int, loss: float = 1.0) -> SampleScores:
    """The first so many samples right."""
    return SampleScores(TOP1, (np.arange(SAMPLES) < right).astype(float), np.full(SAMPLES, loss))


def comparison(rights: Sequence[int], last_loss: float = 1.0, **more: object) -> FinalistComparison:
    losses = [1.0] * 4 + [last_loss]
    rows = list(zip(SECONDS, rights, losses, strict=True))
    scores = {arch: proportion(TOP1, right, SAMPLES, loss) for arch, right, loss in rows}
    samples = {arch: worth(right, loss) for arch, right, loss in rows}
    timings = {arch: timing(seconds) for arch, seconds in SECONDS.items()}
    return replace(FinalistComparison(scores, SECONDS, timings, samples), **more)


def test_the_fastest_that_is_no_worse_is_found() -> None:
    # A difference of 1 sample has a standard error of 1.4, one of 4 one of 2.2.
    assert comparison([300, 300, 300, 299, 296]).faster(BEST) == FASTER
    assert comparison([300, 300, 300, 296, 310]).faster(BEST) == FASTEST
    assert comparison([300, 300, 300, 296, 296]).faster(BEST) is None


def test_scores_alone_tell_less_apart() -> None:
    unpaired = comparison([300, 300, 300, 296, 296], samples={})
    assert unpaired.difference(FASTEST, BEST) is None
    assert unpaired.faster(BEST) == FASTEST
    assert not comparison([300, 300, 300, 280, 280], samples={}).ties(BEST, FASTER)


def test_losses_count_where_networks_are_ranked_by_them() -> None:
    made = comparison([300] * 5, last_loss=1.5)
    assert made.faster(BEST) == FASTEST
    by_loss = {arch: replace(each, criterion="loss") for arch, each in made.scores.items()}
    assert replace(made, scores=by_loss).faster(BEST) == FASTER


def test_without_a_device_the_cheapest_is_found() -> None:
    assert comparison([300, 300, 300, 299, 296], timings={}).faster(BEST) == FASTER
    # What processes do not tell apart is not faster; what a network costs is exact.
    assert comparison([300, 300, 299, 250, 250]).faster(BEST) is None
    assert comparison([300, 300, 299, 250, 250], timings={}).faster(BEST) == NEAR


def searched(path: Path, samples: Mapping[int, int], **settings: object) -> Outcome:
    """A search whose finalists are right on the given numbers of samples, by their place."""
    known, budget = table(), budget_of(latency=table().range(SPACE)[1])

    def measured(device: str, found: Sequence[Arch]) -> dict[Arch, Timing]:
        return {arch: timing(known.predict(SPACE.plan(arch)).seconds) for arch in found}

    path.mkdir()
    with Evaluations(path / "search.sqlite", "supernet", TOP1) as evaluations:
        return Search(
            space=SPACE,
            scoring=InTurn(lambda job: score(job.arch)),
            evaluations=evaluations,
            budget=budget,
            tables=(known,),
            measure=measured,
            settings=SearchSettings(
                rounds=2, parents=20, mutations=6, crossovers=6, finalists=5, reserve=0.0, **settings
            ),
            seed=0,
            progress=Progress(quiet=True),
            sampled=lambda found: {arch: worth(samples[place]) for place, arch in enumerate(found)},
        ).run()


@pytest.mark.parametrize("prefer", ["accurate", "fast"])
def test_the_fastest_wins_where_it_is_preferred(prefer: str, tmp_path: Path) -> None:
    found = searched(tmp_path / "a", dict.fromkeys(range(5), 300), prefer=prefer)
    seconds = {c.arch: found.timings["cpu"][c.arch].median for c in found.fitting}
    assert found.best == max(found.fitting, key=lambda candidate: candidate.rank)
    assert {c.arch for c in found.fitting} == {c.arch for c in found.finalists}
    if prefer == "fast":
        assert min(seconds, key=lambda arch: seconds[arch]) == found.winner.arch != found.best.arch
    else:
        assert found.winner is found.best
        told = searched(tmp_path / "b", {0: 300} | dict.fromkeys(range(1, 5), 200), prefer="fast")
        assert told.winner is told.best


def test_an_original_does_not_win_for_being_itself() -> None:
    """The label loss decides between it and the best of the others."""

    def candidate(arch: Arch, loss: float, divergence: float) -> Candidate:
        made = replace(proportion(TOP1, 300, SAMPLES, loss), divergence=divergence, criterion="both")
        return Candidate(arch, Evaluation(arch.digest, arch.text, made, 1.0), {})

    networks = [candidate(NEAR, 0.75, 0.5), candidate(FASTER, 0.5, 0.5), candidate(FASTEST, 0.25, 2.0)]
    for loss, expected in ((0.625, [FASTER, BEST, NEAR, FASTEST]), (0.375, [BEST, FASTER, NEAR, FASTEST])):
        found = ranked([*networks, candidate(BEST, loss, 0.0)], (BEST,))
        assert [one.arch for one in found] == expected
    assert ranked([candidate(BEST, 1.0, 0.0)], (BEST,))[0].evaluation.score.penalty == 1.0
