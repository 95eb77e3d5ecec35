"""`nasdeploy export` on a run as training and a search leave it."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch

from nasdeploy.cli.export import export
from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import CheckFailed, UserError
from nasdeploy.core.progress import Progress
from nasdeploy.core.score import Score
from nasdeploy.exporting.formats import FORMATS
from nasdeploy.exporting.manifest import ExportManifest, load_export
from nasdeploy.exporting.proof import ExportTarget
from nasdeploy.latency.table import table_path
from nasdeploy.recipe import parse_recipe, recipe_of
from nasdeploy.store.checkpoints import WeightsFacts, trained_weights
from nasdeploy.store.evaluations import Evaluation, Evaluations
from nasdeploy.store.files import write_json
from nasdeploy.store.run import Run
from nasdeploy.supernet.supernet import extract
from nasdeploy.tasks.metrics import TOP1
from nasdeploy.workflows.export import request_export
from tests.exporting.converted import converted_once, functions_read_once  # noqa: F401
from tests.exporting.models import DEVICE, QUICK, Tampered, latency_table, supernet_of
from tests.searching import results
from tests.small_spaces import one_stage
from tests.wording import assert_stops
from tests.workflows.runs import trained_run

SPACE = one_stage()
WINNER = SPACE.arch({**SPACE.named["t0"], "resolution": 8})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nasdeploy.exporting.proof.ExportTarget", partial(ExportTarget, protocol=QUICK))
    return trained_run(tmp_path)


def searched(
    run: Run,
    arch: Arch = WINNER,
    latency_ms: float = 1e6,
    device: str = "cpu",
    weights: WeightsFacts | None = None,
) -> None:
    """As an earlier version left it, without `weights`."""
    found = results.found(arch.digest, arch.to_json())
    result = results.result(found, results.at_most(latency_ms, device), space=SPACE.digest, weights=weights)
    write_json(run.search_result, result.model_dump(mode="json"))


def test_the_winner_of_the_latest_run_by_default(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    searched(run)
    latency_table(SPACE, 1e-4).save(table_path(SPACE, DEVICE))
    export()
    shown = capsys.readouterr()
    out = run.exports / WINNER.digest
    assert f"export: run {run.path}" in shown.err
    assert f"export: {WINNER.digest}, the winner of the search" in shown.err
    lines = shown.out.splitlines()
    assert lines[0].startswith(f"exported {out}/model.onnx")
    assert lines[-3:] == [
        f"manifest {out}/manifest.json",
        f"continue with: nasdeploy verify {out}",
        f"           or: nasdeploy predict {out} FOLDER",
    ]
    assert "predicted 0.4 ms" in shown.out
    assert "budget 1e+06 ms met" in shown.out
    manifest = load_export(out)
    assert manifest.digest == WINNER.digest
    assert manifest.origin.budget == {"latency_ms": 1e6}
    assert manifest.origin.run == str(run.path)
    assert parse_recipe(manifest.origin.recipe, "recipe").name == "x"
    facts = Run.open(run.path).facts("export")
    assert (facts["model"], facts["sha256"]) == (f"{out}/model.onnx", manifest.artefacts[0].file.sha256)


def test_named_places_options_and_json(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep/out"
    export(arch="t0", no_recalibrate=True, run_directory=str(run.path), out=out, as_json=True, quiet=True)
    shown = capsys.readouterr()
    assert shown.err == ""
    result = json.loads(shown.out)
    assert (result["model"], result["manifest"]) == (f"{out}/model.onnx", f"{out}/manifest.json")
    assert result["recalibration"] == "own statistics"
    assert result["artefacts"][0]["proof"]["problems"] == []
    assert result["origin"]["budget"] == {}
    images = torch.randn(3, 3, 12, 12)
    with torch.no_grad():
        expected = extract(supernet_of(SPACE), SPACE.named["t0"]).eval()(images).numpy()
    (found,) = onnxruntime.InferenceSession(out / "model.onnx").run(None, {"input": images.numpy()})
    assert abs(found - expected).max() < 1e-5


def test_a_digest_of_an_evaluated_network(run: Run) -> None:
    arch = SPACE.arch({**WINNER, "width.1": 8})
    with Evaluations(run.search_database, "any", TOP1) as evaluations:
        evaluations.put(Evaluation(arch.digest, arch.text, Score(TOP1, 0.5, 0.1, 10, 1.0), 1.0))
    request = request_export(run, recipe_of(run), arch.digest[:8], None, Progress(quiet=True))
    assert (request.arch, request.device, request.table, request.budget) == (arch, DEVICE, None, {})


def test_a_wrong_file_fails_the_check_and_records_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_bias(model: onnx.ModelProto) -> None:
        model.graph.node[-1].input.pop()

    monkeypatch.setitem(FORMATS, "onnx", Tampered(no_bias))  # type: ignore[arg-type]
    with pytest.raises(CheckFailed, match=r"model\.rejected\.onnx: logits in a batch of 1 differ") as caught:
        export(arch="t0")
    assert caught.value.exit_code == 4
    out = run.exports / SPACE.named["t0"].digest
    assert sorted(path.name for path in out.iterdir()) == ["manifest.rejected.json", "model.rejected.onnx"]
    report = ExportManifest.model_validate_json((out / "manifest.rejected.json").read_bytes())
    assert report.artefacts[0].proof.problems
    assert not Run.open(run.path).is_finished("export")


def edit_manifest(run: Run, **changes: object) -> None:
    path = run.path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"search\.json: no search result yet; run 'nasdeploy search"),
        ({"formats": ["onxx"], "arch": "t0"}, "unknown format 'onxx'; did you mean 'onnx'"),
        ({"arch": "t1"}, "--arch t1: not found"),
        ({"arch": '{"resolution": 8}'}, "width.0 is missing"),
        ({"arch": "t0", "device": "gpux"}, "unknown device 'gpux'"),
        ({"arch": "t0", "run_directory": "runs/y"}, "runs/y: no run there"),
    ],
)
def test_mistakes_are_named(run: Run, options: dict[str, Any], message: str) -> None:
    with assert_stops(UserError, match=message):
        export(**options)
    assert not run.exports.exists()


def test_a_run_that_cannot_be_exported_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "images/train/bee").rename(tmp_path / "images/train/wasp")
    (tmp_path / "images/test/bee").rename(tmp_path / "images/test/wasp")
    with pytest.raises(UserError, match=r"not those that runs.x learned \(without bee, with wasp\)"):
        export(arch="t0")
    (run.checkpoints / "epoch-000001.pt").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"epoch-000001\.pt: damaged"):
        export(arch="t0")
    edit_manifest(run, finished={})
    with assert_stops(UserError, match="'nasdeploy train' has not finished in this run"):
        export(arch="t0")


def test_images_are_those_of_the_training_wherever_they_lie(run: Run, tmp_path: Path) -> None:
    (tmp_path / "images").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="images: no such folder"):
        export(arch="t0", quiet=True)
    export(arch="t0", data="moved", quiet=True)
    (gone, *_) = sorted((tmp_path / "moved/train/bee").iterdir())
    gone.unlink()
    with pytest.raises(UserError, match=r"runs/x was begun with, 1 missing \(.*; the first is train/bee/0\.png\)"):
        export(arch="t0", data="moved", quiet=True)


def test_a_damaged_search_is_named(run: Run) -> None:
    with Evaluations(run.search_database, "any", TOP1) as evaluations:
        evaluations.put(Evaluation("0" * 12, '{"width": ', Score(TOP1, 0.5, 0.1, 10, 1.0), 1.0))
    with pytest.raises(UserError, match=r"search\.sqlite: damaged"):
        export(arch="0000")
    run.search_result.write_text("{}")
    with pytest.raises(UserError, match=r"search\.json: .* is missing; search again"):
        export()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": "0" * 12}, r"search\.json: of another search space \(0{12}, not .*\); search again"),
        ({"winner": {"arch": {"resolution": 8}}}, r"search\.json: damaged \(architecture: width.0 is missing"),
        ({"winner": {"arch": {"resolution": [{}]}}}, r"search\.json: damaged \(architecture: resolution.0 is {}"),
    ],
)
def test_a_search_result_that_does_not_fit_the_run_is_named(run: Run, changes: dict[str, Any], message: str) -> None:
    searched(run)
    result = json.loads(run.search_result.read_text())
    for name, change in changes.items():
        result[name] = {**result[name], **change} if isinstance(change, dict) else change
    write_json(run.search_result, result)
    with pytest.raises(UserError, match=message):
        export()


def test_a_winner_is_that_of_the_weights_that_were_searched(run: Run) -> None:
    weights = trained_weights(run).facts
    searched(run, weights=weights)
    export(no_recalibrate=True, quiet=True)
    assert load_export(run.exports / WINNER.digest).origin.weights == weights
    text = (run.exports / WINNER.digest / "README.md").read_text()
    assert f"a supernet after epoch 1 (checkpoint, sha256 {weights.sha256})" in text
    for others in (weights.model_copy(update={"epoch": 2}), weights.model_copy(update={"sha256": "0" * 64})):
        searched(run, weights=others)
        for options in ({}, {"all_pareto": True}):
            with pytest.raises(UserError, match=r"search\.json: searched on other weights \(.*\); search again with"):
                export(**options, quiet=True)  # type: ignore[arg-type]
    export(arch="t0", no_recalibrate=True, quiet=True)


def test_a_budget_is_that_of_its_device(run: Run, tmp_path: Path) -> None:
    searched(run, latency_ms=2.0)
    (tmp_path / "board.yaml").write_text("name: board\nruntime: onnxruntime\nthreads: 2\n")
    for device, budget in (("cpu", {"latency_ms": 2.0}), ("board.yaml", {})):
        assert request_export(run, recipe_of(run), None, device, Progress(quiet=True)).budget == budget


def test_a_device_in_a_file_that_misses_the_budget(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    searched(run, latency_ms=1e-6, device="board")
    with assert_stops(UserError, match=r"the search was for device board .* name its file with --device"):
        export()
    (tmp_path / "board.yaml").write_text("name: board\nruntime: onnxruntime\nthreads: 2\n")
    export(device="board.yaml", no_recalibrate=True)
    shown = capsys.readouterr().out
    assert "budget 1e-06 ms NOT MET in this measurement" in shown
    assert "no latency table of this space on device board: measured only" in shown
    assert load_export(run.exports / WINNER.digest).artefacts[0].device.threads == 2


def test_the_whole_front_with_one_table(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    winner, other = (results.found(arch.digest, arch.to_json()) for arch in (WINNER, SPACE.named["t0"]))
    found = results.result(winner, results.at_most(1e6), space=SPACE.digest, front=(winner, other))
    write_json(run.search_result, found.model_dump(mode="json"))
    export(all_pareto=True, no_recalibrate=True, as_json=True, quiet=True)
    rows = json.loads(capsys.readouterr().out)["networks"]
    assert [row["digest"] for row in rows] == [WINNER.digest, SPACE.named["t0"].digest]
    assert rows[0]["macs_m"] < rows[1]["macs_m"]
    for row, budget in zip(rows, ({"latency_ms": 1e6}, {}), strict=True):
        manifest = load_export(run.exports / row["digest"])
        assert (manifest.digest, manifest.origin.budget) == (row["digest"], budget)
        assert manifest.artefacts[0].proof.accuracy is not None
        assert manifest.artefacts[0].proof.accuracy.top1 == row["top1"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"all_pareto": True, "arch": "t0"}, "--all-pareto and --arch exclude each other: the front is the search's"),
        ({"arch": "t0", "layout": "tritn"}, "--layout tritn: the only other layout is triton"),
        ({"arch": "t0", "layout": "triton", "formats": ["torch"]}, "--layout triton: Triton serves onnx, openvino"),
        ({"arch": "t0", "embed": True, "formats": ["torch"]}, "--embed-preprocessing is for format onnx; add it"),
    ],
)
def test_options_that_exclude_each_other(run: Run, options: dict[str, Any], message: str) -> None:
    with assert_stops(UserError, match=message):
        export(**options)
    assert not run.exports.exists()
