"""Images whose damage shows only when they are decoded: a run that they stop goes on without them, and counts them."""

import json
import sys
from functools import partial
from pathlib import Path

import pytest
import yaml

from nasdeploy.cli.main import main
from nasdeploy.data.datasets import open_data
from nasdeploy.exporting.manifest import Recalibration, load_export
from nasdeploy.exporting.proof import ExportTarget
from nasdeploy.recipe import load_recipe
from nasdeploy.workflows.verify import verify
from tests.data.pictures import write_folder
from tests.exporting.models import QUICK
from tests.training.recipes import CONTENT

SKIP = ("--set", "data.on_unreadable=skip")
RECIPE = {
    **CONTENT,
    "data": {"kind": "folder", "path": "images", "size": 8, "workers": 0, "holdout": 0.25},
    "train": {"epochs": 1, "batch_size": 8, "warmup_epochs": 0, "threads": 1},
    "search": {"rounds": 1, "parents": 4, "mutations": 2, "crossovers": 2, "finalists": 2},
}


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")  # So that no line is broken.
    monkeypatch.setattr("nasdeploy.exporting.proof.ExportTarget", partial(ExportTarget, protocol=QUICK))
    monkeypatch.setattr(verify, "__kwdefaults__", {**verify.__kwdefaults__, "protocol": QUICK})
    parts = {"train": {"ant": 12, "bee": 12, "cat": 12}, "test": {"ant": 4, "bee": 4, "cat": 4}}
    write_folder(Path("images"), parts, side=8)
    Path("tiny.yaml").write_text(yaml.safe_dump(RECIPE))


def damage(path: Path) -> Path:
    """Flip bits of the pixels: head and tail stay what they were."""
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 4] ^= 0xFF
    path.write_bytes(content)
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["nasdeploy", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


@pytest.mark.slow
def test_a_test_image_that_is_found_by_the_export(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = damage(Path("images/test/bee/1.png")).absolute()
    assert run(monkeypatch, "train", "tiny.yaml") == 0
    assert str(bad) not in capsys.readouterr().err
    export = ("export", "--arch", "smallest", "--out", "out")
    assert run(monkeypatch, *export) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"nasdeploy: {bad}: cannot be read as an image (")
    assert " ".join(SKIP) in said
    assert run(monkeypatch, *export, *SKIP, "--embed-preprocessing") == 0
    shown = capsys.readouterr()
    assert "on 11 of 12 images, 1 unreadable left out" in shown.out
    assert shown.err.count(f"left out: {bad}") == 1
    accuracy = load_export(Path("out")).artefacts[0].proof.accuracy
    assert accuracy is not None and (accuracy.images, accuracy.unreadable) == (11, 1)
    assert "top-1 on 11 of 12 test images, 1 unreadable left out" in Path("out/README.md").read_text()
    assert run(monkeypatch, "verify", "out", "--data", "images") == 0
    assert "on 11 of 12 images, 1 unreadable left out" in capsys.readouterr().out


@pytest.mark.slow
def test_images_of_every_other_part(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    sets = open_data(load_recipe("tiny.yaml").data, 0)
    bad = [damage(part.path(3)) for part in (sets.train, sets.search) if isinstance(part.path(3), Path)]  # type: ignore[arg-type]
    assert run(monkeypatch, "train", "tiny.yaml") == 2
    assert " ".join(SKIP) in capsys.readouterr().err
    assert run(monkeypatch, "train", "tiny.yaml", *SKIP) == 0
    for path in bad:
        assert capsys.readouterr().err.count(f"left out: {path}") <= 1
    assert run(monkeypatch, "evaluate", "--sample", "2", "--bins", "1") == 2
    assert run(monkeypatch, "evaluate", "--sample", "2", "--bins", "1", *SKIP) == 0
    assert "held out for the search, 1 unreadable left out" in capsys.readouterr().out
    assert run(monkeypatch, "search", "--macs-m", "1") == 2
    assert run(monkeypatch, "search", "--macs-m", "1", *SKIP) == 0
    held_out = len(sets.search)
    assert f"accuracy on {held_out - 1} of {held_out} held-out images, 1 unreadable" in capsys.readouterr().out
    assert json.loads(Path("runs/tiny/search.json").read_text())["unreadable"] == 1
    assert run(monkeypatch, "export", "--out", "out", *SKIP) == 0
    recalibration = load_export(Path("out")).recalibration
    assert isinstance(recalibration, Recalibration) and recalibration.unreadable > 0


def test_a_last_batch_without_a_readable_image_is_no_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """33 images in batches of 32: the last one has a batch of its own."""
    write_folder(Path("images"), {"test": {"ant": 11, "bee": 11, "cat": 11}}, side=8)
    damage(Path("images/test/cat/9.png"))
    assert run(monkeypatch, "train", "tiny.yaml") == 0
    assert run(monkeypatch, "export", "--arch", "smallest", "--out", "out", *SKIP) == 0
    assert "on 32 of 33 images, 1 unreadable left out" in capsys.readouterr().out
