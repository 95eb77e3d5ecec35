"""From a folder and a pretrained network to a proved file: init, both phases, search, the last training, export."""

import json
from pathlib import Path

import onnxruntime
import pytest

import nasdeploy as nd
from tests.hasty import measure_hastily
from tests.pretrained import COLOURS, MODEL, fitted, write_pictures

QUICK = {
    "data.augment.scale": [0.35, 1.0],
    "space.resolution": [64, 96],
    "search.rounds": 1,
    "search.parents": 6,
    "train.phases.0.epochs": 1,
    "train.phases.0.warmup_epochs": 0.0,
    "train.phases.0.learning_rate": 1e-6,
    "train.phases.1.epochs": 1,
    "train.phases.1.warmup_epochs": 0.0,
    "finetune.epochs": 1,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole-way")
    write_pictures(folder / "photos", {"train": 24, "test": 6})
    fitted(folder / "photos", list(COLOURS), folder / "own.pth")
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> nd.Run:
    recipe = folder / "recipe.yaml"
    nd.init(folder / "photos", start=f"timm:{MODEL}", weights=folder / "own.pth", hours=0.01, out=recipe)
    return nd.train(recipe, run=folder / "run", changes=QUICK)


@pytest.mark.slow
def test_the_original_is_kept_and_knows_the_pictures(run: nd.Run) -> None:
    (original,) = (run.path / "networks").glob("*/network.json")
    kept = json.loads(original.read_text(encoding="utf-8"))
    assert kept["kind"] == "original"
    assert kept["after"]["value"] > 0.5


@pytest.mark.slow
def test_the_winner_is_trained_further_and_exported(run: nd.Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure_hastily(monkeypatch)
    result = nd.search(run, macs_m=2.0)
    assert result.winner.costs["macs"] <= 2e6
    finetuned = nd.finetune(run)
    assert finetuned.arch.digest == result.winner.digest
    exported = nd.export(run, out=folder / "bundle")
    assert not exported.manifest.artefacts[0].proof.problems
    assert ("fine-tuned" in (exported.directory / "README.md").read_text(encoding="utf-8")) == finetuned.record.kept
    session = onnxruntime.InferenceSession(exported.models[0])
    assert set(session.get_inputs()[0].shape[2:]) <= {64, 96}
