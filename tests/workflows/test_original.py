"""The original of a run is scored, found, measured and exported with weights of its own wherever it is met."""

import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from nasdeploy.cli.export import export
from nasdeploy.cli.models import verify
from nasdeploy.cli.searches import compared, describe, listed
from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.exporting.bundle.write import load_bundle
from nasdeploy.exporting.proof import ExportTarget
from nasdeploy.latency.protocol import Timing
from nasdeploy.latency.table import table_path
from nasdeploy.nn.network import Network
from nasdeploy.recipe import recipe_of
from nasdeploy.searching.result import SearchResult, load_result
from nasdeploy.store.checkpoints import trained_weights
from nasdeploy.store.evaluations import Evaluations
from nasdeploy.store.networks import HeldOutScore, KeptNetwork, NetworkFacts
from nasdeploy.store.run import Run
from nasdeploy.supernet.networks import keep_network
from nasdeploy.supernet.supernet import Supernet, extract
from nasdeploy.tasks.metrics import TOP1
from nasdeploy.workflows.evaluate import evaluate, request_comparison
from nasdeploy.workflows.evaluator import open_evaluator, supernet_of
from nasdeploy.workflows.export import ExportRequest, request_export
from nasdeploy.workflows.request import foresee_search, request_search
from nasdeploy.workflows.search import search
from nasdeploy.workflows.verify import verify as verified
from tests.exporting.models import DEVICE, QUICK, timing
from tests.exporting.models import supernet_of as weights_of
from tests.nn.reference import randomise
from tests.workflows.runs import SPACE, table_of, trained_run

QUIET = Progress(quiet=True)
LARGEST = SPACE.largest()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nasdeploy.exporting.proof.ExportTarget", partial(ExportTarget, protocol=QUICK))
    monkeypatch.setattr("nasdeploy.workflows.search.measure_networks", measured)
    made = trained_run(tmp_path)
    table_of(DEVICE).save(table_path(SPACE, DEVICE))
    return made


def measured(archs: Sequence[Arch], *others: object) -> dict[Arch, Timing]:
    return {arch: timing(1e-4 * len(SPACE.plan(arch).steps)) for arch in archs}


def other_network(arch: Arch = LARGEST) -> Network:
    """Weights that no supernet of these tests has."""
    torch.manual_seed(99)
    supernet = Supernet(SPACE)
    randomise(supernet, 99)
    return extract(supernet, arch).eval()


def keep(run: Run, network: Network, kind: str = "original", arch: Arch = LARGEST) -> KeptNetwork:
    facts = {"kind": kind, "epochs": 4, "checkpoint": trained_weights(run).facts.model_dump()}
    scores = {"before": None, "after": None}
    if kind == "finetuned":
        before, after = (HeldOutScore(value=value, error=0.1, loss=1.0, samples=20) for value in (0.5, 0.75))
        scores = {"before": before.model_dump(), "after": after.model_dump()}
    return keep_network(run, arch, network, NetworkFacts.model_validate({**facts, **scores}))


def searched(run: Run, *changes: str) -> SearchResult:
    found = search(request_search(run, recipe_of(run, changes), {"latency": ("1",)}, False, QUIET), QUIET)
    assert found is not None
    return found


def identity(run: Run) -> str:
    return supernet_of(run, recipe_of(run), trained_weights(run).facts)


def test_the_original_is_scored_with_its_own_weights_and_all_others_with_the_supernets(run: Run) -> None:
    weights = trained_weights(run).path
    plain = open_evaluator(run, recipe_of(run), SPACE, weights)
    keep(run, other_network())
    own = open_evaluator(run, recipe_of(run), SPACE, weights)
    assert list(own.own) == [LARGEST]
    assert own(SPACE.smallest()) == plain(SPACE.smallest())
    assert own(LARGEST).loss != plain(LARGEST).loss
    images = torch.rand(2, 3, 12, 12)
    assert torch.equal(
        own.network(LARGEST).train()(images),
        other_network().to(memory_format=torch.channels_last).train()(images.to(memory_format=torch.channels_last)),
    )


def test_an_original_with_the_supernets_weights_scores_as_the_supernets_network_does(run: Run) -> None:
    weights = trained_weights(run).path
    plain = open_evaluator(run, recipe_of(run), SPACE, weights)
    keep(run, extract(weights_of(SPACE), LARGEST))
    assert open_evaluator(run, recipe_of(run), SPACE, weights)(LARGEST) == plain(LARGEST)


def test_evaluations_of_the_supernets_network_are_not_taken_for_those_of_the_original(run: Run) -> None:
    before = identity(run)
    searched(run)
    kept = keep(run, other_network())
    assert identity(run) != before
    with pytest.raises(UserError, match=r"search.sqlite: holds evaluations of another supernet"):
        searched(run)
    shutil.rmtree(kept.path)
    assert identity(run) == before


def test_the_original_is_a_candidate_of_every_search_and_told_from_the_others(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(run, other_network())
    found = searched(run)
    with Evaluations(run.search_database, identity(run), TOP1) as evaluations:
        assert evaluations.all()[0].digest == LARGEST.digest
    originals = {one.digest for one in (*found.front, *found.finalists, found.winner) if one.original}
    assert originals <= {LARGEST.digest}
    read = load_result(run.search_result)
    assert read == found
    named = [one for one in (*read.front, *read.finalists) if one.digest == LARGEST.digest]
    assert named
    assert all(one.original for one in named)
    monkeypatch.setenv("COLUMNS", "400")
    assert f"{LARGEST.digest} (original)" in describe(read)
    won = read.model_copy(update={"winner": named[0]})
    assert all(f"{LARGEST.digest} (original)" in table([won, won]) for table in (listed, compared))
    content = json.loads(run.search_result.read_text())
    assert [one["digest"] for one in content["front"] if "original" in one] in ([], [LARGEST.digest])


def test_a_search_ranks_by_loss_and_divergence_from_the_original(run: Run) -> None:
    keep(run, other_network())
    plain, found = searched(run), searched(run, "search.score=both", "search.halving=2")
    assert found.score == "both"
    with Evaluations(run.search_database, identity(run), TOP1, "both") as evaluations:
        known = {one.digest: one.score for one in evaluations.all()}
    assert known[LARGEST.digest].divergence == pytest.approx(0.0, abs=1e-6)
    others = {digest: score for digest, score in known.items() if digest != LARGEST.digest}
    digest = max(others, key=lambda digest: others[digest].rank)
    best = others[digest]
    for one in (*found.front, *found.finalists):
        # The original would win for being itself: it counts as far from itself as the best other network is.
        away = best.divergence if one.original else known[one.digest].divergence
        assert one.penalty == pytest.approx((one.loss or 0.0) + (away or 0.0))
    first = LARGEST.digest if known[LARGEST.digest].loss < best.loss else digest
    assert found.finalists[0].digest == first
    assert load_result(run.search_result) == found
    assert "ranked by their loss and the divergence of their outputs from the original's" in describe(found)
    content = json.loads((run.path / "searches/1.json").read_text())
    assert (content["score"], "penalty" in content["winner"], plain.winner.penalty) == ("metric", False, None)


def test_finalists_are_compared_with_the_winner_sample_by_sample(run: Run) -> None:
    found = searched(run, "search.finalists=4")
    others = [one for one in found.finalists if one.digest != found.winner.digest]
    for one in others:
        assert one.difference is not None
        assert one.difference.value == pytest.approx(one.value - found.winner.value)
        assert one.difference.loss == pytest.approx((one.loss or 0) - (found.winner.loss or 0), abs=1e-6)
        assert (one.digest in found.ties) == (one.difference.value >= -one.difference.error)
    assert others and found.winner.difference is None
    assert load_result(run.search_result) == found
    content = json.loads(run.search_result.read_text())
    assert [len(one.get("difference", ())) for one in content["finalists"]].count(4) == len(others)
    by_speed = searched(run, "search.finalists=4", "search.prefer=fast")
    assert by_speed.winner.digest == found.faster or (found.faster is None and by_speed.winner == found.winner)
    assert by_speed.best == (None if found.faster is None else found.winner.digest)


def test_comparing_with_an_original_that_is_not_there_is_refused_in_one_line(run: Run) -> None:
    refusal = r"runs/x: search.score is divergence, and this run keeps no original to compare outputs with, .* loss$"
    with pytest.raises(UserError, match=refusal):
        searched(run, "search.score=divergence")
    with pytest.raises(UserError, match=r"search.score is both, and this training keeps no original to compare"):
        foresee_search(recipe_of(run, ["search.score=both"]), {"latency": ("1",)}, SPACE, False)
    by_loss = searched(run, "search.score=loss").winner
    assert by_loss.penalty == by_loss.loss


def test_an_original_beyond_the_budget_is_left_out(run: Run) -> None:
    keep(run, other_network())
    search(request_search(run, recipe_of(run), {"latency": ("50%",)}, False, QUIET), QUIET)
    with Evaluations(run.search_database, identity(run), TOP1) as evaluations:
        assert evaluations.get(LARGEST.digest) is None


def test_a_damaged_original_stops_a_search_in_one_line(run: Run) -> None:
    kept = keep(run, other_network())
    kept.weights.write_bytes(b"")
    with pytest.raises(UserError, match=r"weights.safetensors: damaged, .* delete that directory to do without"):
        searched(run)


def test_a_comparison_names_the_network_that_has_weights_of_its_own(run: Run, tmp_path: Path) -> None:
    (entry,) = evaluate(request_comparison([run.path], 2, 1), tmp_path / "out", QUIET)["runs"]
    assert entry["original"] is None
    run.search_database.unlink()
    keep(run, other_network())
    (entry,) = evaluate(request_comparison([run.path], 2, 1), tmp_path / "out", QUIET)["runs"]
    assert entry["original"] == LARGEST.digest


def logits_of(file: Path, images: torch.Tensor) -> torch.Tensor:
    (found,) = onnxruntime.InferenceSession(file).run(None, {"input": images.numpy()})
    return torch.from_numpy(np.asarray(found))


@pytest.mark.slow
def test_an_export_has_the_fine_tuned_weights_and_says_so(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    keep(run, extract(weights_of(SPACE), LARGEST))
    kept = keep(run, other_network(), "finetuned")
    export(arch=json.dumps(LARGEST.to_json()), no_recalibrate=True)
    shown = capsys.readouterr()
    out = run.exports / LARGEST.digest
    images = torch.rand(3, 3, 12, 12)
    with torch.no_grad():
        expected = other_network()(images)
    assert (logits_of(out / "model.onnx", images) - expected).abs().max() < 1e-5
    assert load_bundle(out).origin.own == kept.record.own_weights
    text = "its own, fine-tuned for 4 epochs: top-1 on 20 held-out images 75.00 %, before 50.00 %"
    assert f"weights    {text}" in shown.out
    assert f"the weights of {LARGEST.digest} are {text}" in shown.err
    assert f"Its weights (sha256 {kept.record.sha256}) are {text}; they began as" in (out / "README.md").read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verified, "__kwdefaults__", {**verified.__kwdefaults__, "protocol": QUICK})
        verify(out)
    assert f"  weights     {text}" in capsys.readouterr().out


def test_the_weights_that_are_exported_are_the_fine_tuned_the_originals_or_the_supernets(run: Run) -> None:
    def asked(arch: Arch) -> ExportRequest:
        return request_export(run, recipe_of(run), json.dumps(arch.to_json()), None, QUIET)

    assert asked(LARGEST).own is None
    original = keep(run, other_network())
    assert asked(LARGEST).own == original
    assert asked(SPACE.smallest()).own is None
    text = original.record.text(TOP1)
    assert text == "its own, those of the pretrained original after 4 epochs on the run's data"
    finetuned = keep(run, other_network(), "finetuned")
    assert asked(LARGEST).own == finetuned
