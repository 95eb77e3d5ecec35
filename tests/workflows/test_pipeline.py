"""The whole way on real images with a small space: train, profile, search, export, and taking it up again."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from reference_keys import undocumented

from nasdeploy.cli.main import main
from nasdeploy.exporting.manifest import ExportManifest
from nasdeploy.exporting.predictions import FilePredictions, predictions_file
from nasdeploy.latency.table import LatencyTable
from tests.hasty import measure_hastily
from tests.noise import despite_noise
from tests.workflows.runs import trained_run

RECIPE = """
name: tiny
space:
  name: tiny
  resolution: [8, 10]
  stem: {width: [8, 16], stride: 1}
  stages:
    - {width: [8, 16], depth: [1, 2], kernel: [3], expand: [1, 2], stride: 2}
    - {width: [16, 24], depth: [1], kernel: [3, 5], expand: [2], stride: 2, se: true}
  head: {width: [32], expand: 2}
data:
  kind: digits
  size: 8
  augment: {crop: pad, pad: 1, flip: false}
train: {epochs: 4, batch_size: 32, learning_rate: 0.8, warmup_epochs: 0.5, validate_every: 2}
recalibration: {batch_size: 64, batches: 4, search_batches: 2}
search: {latency: 1000ms, rounds: 2, parents: 8, mutations: 4, crossovers: 4, finalists: 4}
"""

pytestmark = pytest.mark.slow


def ended(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What a command gave, in this process."""
    with (
        chdir(directory),
        redirect_stdout(io.StringIO()) as out,
        redirect_stderr(io.StringIO()) as err,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "argv", ["nasdeploy", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
    assert isinstance(stopped.value.code, int)
    return subprocess.CompletedProcess(arguments, stopped.value.code, out.getvalue(), err.getvalue())


def run(directory: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """The same of a command that ends so."""
    done = ended(directory, *arguments)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def hasty() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        measure_hastily(patch)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, hasty: None) -> tuple[Path, dict]:
    directory = tmp_path_factory.mktemp("pipeline")
    (directory / "tiny.yaml").write_text(RECIPE)
    return directory, json.loads(run(directory, "run", "tiny.yaml", "--json").stdout)


def highest(search: dict) -> float:
    """The upper bound of the latency in a search's result."""
    _, high = search["budget"]["latency"]["cpu"]["median_ms"]
    return high


def test_the_file_runs_in_its_runtime_alone(finished):
    directory, result = finished
    side = result["export"]["preprocessing"]["resolution"]
    session = onnxruntime.InferenceSession(directory / result["model"])
    for batch in (1, 3):
        (logits,) = session.run(["logits"], {"input": np.zeros((batch, 3, side, side), np.float32)})
        assert logits.shape == (batch, 10)


def test_the_winner_meets_the_budget_and_beats_chance(finished):
    _, result = finished
    winner, budget = result["search"]["winner"], highest(result["search"])
    assert winner["latency"]["cpu"]["measured_ms"] <= budget
    assert winner["digest"] == result["export"]["digest"]
    assert result["export"]["artefacts"][0]["proof"]["accuracy"]["top1"] > 0.3
    assert result["export"]["artefacts"][0]["proof"]["accuracy"]["changed"] == 0


def test_everything_is_where_scripts_look_for_it(finished):
    directory, result = finished
    path = directory / "runs/tiny"
    assert {"manifest.json", "metrics.jsonl", "search.sqlite", "search.json", "pareto.png"} <= {
        entry.name for entry in path.iterdir()
    }
    export = path / "export" / result["export"]["digest"]
    assert {entry.name for entry in export.iterdir()} == {
        "manifest.json",
        "model.onnx",
        "predict.py",
        "pictures.py",
        "sample.npz",
        "README.md",
        "SHA256SUMS",
        ".gitattributes",
    }
    assert len(list((directory / "profiles/tables").glob("cpu-tiny-*-10.json"))) == 1


def test_every_key_of_what_it_writes_is_documented(finished):
    directory, result = finished
    (table,) = (directory / "profiles/tables").glob("cpu-tiny-*-10.json")
    content = json.loads(table.read_text())
    assert content.pop("sha256")
    assert undocumented(content, LatencyTable) == []
    manifest = directory / "runs/tiny/export" / result["export"]["digest"] / "manifest.json"
    assert undocumented(json.loads(manifest.read_text()), ExportManifest) == []


def test_it_ends_with_a_report_and_with_what_the_file_makes_of_each_test_image(finished):
    directory, result = finished
    assert "<!doctype html>" in (directory / result["report"]).read_text(encoding="utf-8")
    artefact = result["export"]["artefacts"][0]
    found = FilePredictions.load(predictions_file(directory / "runs/tiny", artefact["files"][0]["sha256"]), 10)
    accuracy = artefact["proof"]["accuracy"]
    assert len(found.labels) == accuracy["images"]
    assert np.mean(found.labels == found.classes) == pytest.approx(accuracy["top1"])
    (report,) = json.loads(run(directory, "report", "runs/tiny", "--json").stdout)["runs"]
    assert report["remarks"] == []
    assert report["predictions"]["correct"] == np.sum(found.labels == found.classes)
    assert report["reproduction"]["commands"][-1] == "nasdeploy export --format onnx"


def test_predictions_that_were_not_kept_are_made_by_the_file_alone(finished, tmp_path):
    directory, _ = finished
    shutil.copytree(directory, tmp_path / "copy")
    kept = tmp_path / "copy/runs/tiny/predictions"
    (file,) = kept.iterdir()
    before = FilePredictions.load(file, 10)
    shutil.rmtree(kept)
    run(tmp_path / "copy", "report", "runs/tiny", "--json")
    after = FilePredictions.load(file, 10)
    assert after.mistakes == before.mistakes
    assert np.array_equal(after.classes, before.classes)


def test_the_same_command_again_does_nothing_twice(finished):
    directory, result = finished
    again = run(directory, "run", "tiny.yaml", "--json")
    for step in ("train", "profile", "search", "export"):
        assert any(line.startswith(f"{step}: ") and "is" in line for line in again.stderr.splitlines())
    assert json.loads(again.stdout)["export"] == result["export"]


def test_another_budget_searches_again_but_evaluates_little(finished):
    directory, _ = finished
    found = json.loads(run(directory, "search", "--latency", "900ms", "--json").stdout)
    assert 0 < found["winner"]["latency"]["cpu"]["measured_ms"] <= highest(found)


def test_an_export_for_another_budget_is_not_taken_for_that_of_this_one(finished, tmp_path):
    directory, result = finished
    shutil.copytree(directory, tmp_path / "copy")
    found = json.loads(run(tmp_path / "copy", "run", "tiny.yaml", "--latency", "1001ms", "--json").stdout)
    assert highest(found["search"]) > highest(result["search"])
    assert found["export"]["origin"]["budget"] == {"latency_ms": highest(found["search"])}


def test_budgets_of_macs_and_params_need_no_latency(finished, tmp_path):
    directory, _ = finished
    shutil.copytree(directory / "runs", tmp_path / "runs")
    found = json.loads(run(tmp_path, "search", "--macs-m", "0.3", "--params-m", "0.02", "--json").stdout)
    assert found["winner"]["macs"] <= 0.3e6
    assert found["winner"]["params"] <= 0.02e6
    assert found["winner"]["latency"] == {}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["search", "--latency-ms", "0.000001"], 3, "the space reaches from"),
        (["search", "--macs-m", "0.001"], 3, "the space reaches from"),
        (["search", "--latency", "40 percent"], 2, "write milliseconds"),
        (["search", "--latency-ms", "1", "--latency", "40%"], 2, "use one of them"),
        (["search", "--device", "gpu"], 2, "gpu"),
        (["search", "--set", "search.round=3"], 2, "did you mean 'rounds'"),
        (["search", "--run", "runs/none", "--latency", "40%"], 2, "no run there"),
        (["run", "tiny.yml"], 2, "no such recipe file"),
        (["run", "tiny.yaml", "--set", "train.epochs=3"], 2, "train.epochs differs"),
        (["train", "tiny.yaml"], 2, "training is finished"),
    ],
)
def test_mistakes_end_in_one_line(finished, arguments, code, words):
    directory, _ = finished
    before = {path: path.read_bytes() for path in (directory / "runs").rglob("*.json")}
    done = run(directory, *arguments, code=code)
    assert words in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("nasdeploy: ")
    assert {path: path.read_bytes() for path in before} == before


def test_damaged_files_are_named_and_nothing_is_lost(finished, tmp_path):
    directory, _ = finished
    shutil.copytree(directory, tmp_path / "copy")
    copy = tmp_path / "copy"
    (table,) = (copy / "profiles/tables").glob("*.json")
    whole = table.read_bytes()
    table.write_bytes(whole[:-100])
    assert table.name in run(copy, "search", "--latency", "40%", code=2).stderr
    table.write_bytes(whole)
    (copy / "runs/tiny/search.sqlite").write_bytes(b"not a database, but long enough to be taken for one" * 99)
    assert "search.sqlite" in run(copy, "search", "--macs-m", "1", code=2).stderr
    weights = copy / "runs/tiny/supernet.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert weights.name in run(copy, "export", code=2).stderr
    assert (copy / "runs/tiny/search.json").exists()


@pytest.mark.latency
def test_parts_of_the_measured_range_are_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trained_run(tmp_path)
    run(tmp_path, "profile", "--quiet")
    budgets = []
    for part in ("60%", "80%"):
        done = despite_noise(
            lambda part=part: ended(tmp_path, "search", "--latency", part, "--json"),
            lambda: ended(tmp_path, "profile", "--restart", "--quiet"),
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert 0 < found["winner"]["latency"]["cpu"]["measured_ms"] <= highest(found)
        budgets.append(highest(found))
    assert budgets[0] < budgets[1]
