"""From a folder and a pretrained network to a proved file, as README.md has it in Python."""

import json
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

import nasdeploy as nd
from tests.docs.pages import PAGES, fences
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


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class _Way:
    """What the lines of README.md left, and where."""

    folder: Path
    left: dict[str, Any]
    asked: list[str]


@pytest.fixture(scope="module")
def way(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Way]:
    folder = tmp_path_factory.mktemp("whole-way")
    write_pictures(folder / "photos", {"train": 24, "test": 6})
    fitted(folder / "photos", list(COLOURS), folder / "efficientnet-lite0.pth")
    (lines,) = fences(PAGES["README.md"], "python")
    init, train, search, export, asked = nd.init, nd.train, nd.search, nd.export, list[str]()

    def generous(run: nd.Run, *, latency_ms: str, progress: bool) -> nd.SearchResult:
        """Search within a budget that no busy machine misses, and that leaves small networks."""
        asked.append(latency_ms)
        return search(run, latency_ms=1000.0, macs_m=2.0, progress=progress)

    with pytest.MonkeyPatch.context() as patch, chdir(folder):
        measure_hastily(patch)
        # A network of a tenth of the size, and what makes each step shorter; everything else is as the page has it.
        patch.setattr(
            nd, "init", lambda data, **given: init(data, **{**given, "start": f"timm:{MODEL}", "hours": 0.01})
        )
        patch.setattr(nd, "train", partial(train, changes=QUICK))
        patch.setattr(nd, "search", generous)
        patch.setattr(nd, "export", lambda run, **given: export(run, **given | {"finetune_epochs": 1}))
        left: dict[str, Any] = {}
        exec(lines.text, left)
        yield _Way(folder, left, asked)


@pytest.mark.slow
def test_the_original_is_kept_and_knows_the_pictures(way: _Way) -> None:
    networks = (way.left["run"].path / "networks").glob("*/network.json")
    (kept,) = (each for each in map(read, networks) if each["kind"] == "original")
    assert kept["after"]["value"] > 0.5


@pytest.mark.slow
def test_the_winner_is_trained_further_and_exported(way: _Way) -> None:
    assert way.asked == ["0.5x"]
    assert way.left["result"].winner.costs["macs"] <= 2e6
    exported, finetuned = way.left["export"], read(next(way.left["run"].path.glob("finetune/*/finetune.json")))
    assert not exported.manifest.artefacts[0].proof.problems
    text = (exported.directory / "README.md").read_text(encoding="utf-8")
    assert ("fine-tuned" in text) == finetuned["kept"]
    session = onnxruntime.InferenceSession(way.folder / exported.models[0])
    assert set(session.get_inputs()[0].shape[2:]) <= {64, 96}
