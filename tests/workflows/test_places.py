"""Runs that cannot be written, that are deleted while they are used, and places that two processes want to write."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nasdeploy.cli.export import export
from nasdeploy.cli.run import init
from nasdeploy.cli.train import evaluate
from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.core.score import Score
from nasdeploy.exporting.bundle.write import staging
from nasdeploy.exporting.proof import ExportTarget
from nasdeploy.recipe import recipe_of
from nasdeploy.store.evaluations import Evaluation, Evaluations
from nasdeploy.store.files import locked_while_written
from nasdeploy.store.run import Run
from nasdeploy.supernet.evaluate import Evaluator
from nasdeploy.tasks.metrics import TOP1
from nasdeploy.training.checkpoint import Checkpoints
from nasdeploy.workflows import train as step
from nasdeploy.workflows.request import request_search
from nasdeploy.workflows.search import search
from tests.exporting.models import QUICK
from tests.training.recipes import tiny_recipe
from tests.wording import assert_stops
from tests.workflows.runs import SPACE, trained_run

QUIET = Progress(quiet=True)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nasdeploy.exporting.proof.ExportTarget", partial(ExportTarget, protocol=QUICK))
    return trained_run(tmp_path)


# -- read-only


@contextmanager
def told_to_be_read_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As far as a process sees that is not root: here the system is asked, and says no."""
    access = os.access

    def refused(asked: Any, mode: int, **more: Any) -> bool:
        inside = Path(asked).absolute().is_relative_to(path.absolute())
        return access(asked, mode, **more) and not (inside and mode & os.W_OK)

    with monkeypatch.context() as patch:
        patch.setattr(os, "access", refused)
        yield


@contextmanager
def mounted_read_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nobody writes there, root neither."""
    if shutil.which("mount") is None or subprocess.run(["mount", "--bind", path, path], check=False).returncode:
        pytest.skip("needs the right to mount")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", path], check=True)
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def content_of(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize("read_only", [told_to_be_read_only, mounted_read_only])
def test_a_run_that_cannot_be_written_is_evaluated_and_exported_elsewhere(
    read_only: Any, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = SPACE.arch({**SPACE.named["t0"], "resolution": 8})
    with Evaluations(run.search_database, "any", TOP1) as evaluations:
        evaluations.put(Evaluation(known.digest, known.text, Score(TOP1, 0.5, 0.1, 10, 1.0), 1.0))
    run.search_database.rename(run.path / "kept")
    evaluate(runs=[run.path], sample=2, bins=1, quiet=True)
    (run.path / "evaluate.json").unlink()
    before = content_of(run.path)
    capsys.readouterr()
    with read_only(run.path, monkeypatch):
        evaluate(runs=[run.path], sample=3, bins=1, out=Path("compared"))
        assert "3 networks, 2 known already" in capsys.readouterr().err
        assert len(json.loads(Path("compared/evaluate.json").read_text())["runs"][0]["networks"]) == 3
        evaluate(runs=[run.path], sample=3, bins=1, out=Path("compared"))
        assert "3 networks, 3 known already" in capsys.readouterr().err
        digest = json.loads(Path("compared/evaluate.json").read_text())["runs"][0]["networks"][0]["digest"]
        export(arch=digest, no_recalibrate=True, out=Path("out"))
        assert "runs/x is read-only, and does not know of it" in capsys.readouterr().err
        with assert_stops(UserError, match=r"runs/x: is read-only; say with --out DIR"):
            export(arch="t0", no_recalibrate=True, quiet=True)
        assert content_of(run.path) == before
    assert Path("out/model.onnx").exists()


# -- deleted


def gone(run: Run) -> None:
    shutil.rmtree(run.path)


def replaced(run: Run) -> None:
    """By a copy: the same files, which are others all the same."""
    shutil.copytree(run.path, "copy")
    shutil.rmtree(run.path)
    Path("copy").rename(run.path)


@pytest.mark.parametrize("lose", [gone, replaced])
def test_a_run_that_is_lost_while_it_is_searched(lose: Any, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    call = Evaluator.__call__
    left: dict[Path, bytes] = {}

    def losing(self: Evaluator, *given: Any) -> Any:
        if not left:
            lose(run)
            left.update(content_of(Path(run.path)) or {Path("nothing"): b""})
        return call(self, *given)

    monkeypatch.setattr(Evaluator, "__call__", losing)
    with pytest.raises(UserError, match=r"was deleted or replaced while it was"):
        search(request_search(run, recipe_of(run), {"macs": ("1",)}, False, QUIET), QUIET)
    assert (content_of(run.path) or {Path("nothing"): b""}) == left
    assert run.path.exists() == (lose is replaced)


@pytest.mark.parametrize("lose", [gone, replaced])
def test_a_run_that_is_lost_while_it_is_trained(lose: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mark = Checkpoints.mark_best
    path = Path("runs/tiny")

    def losing(self: Checkpoints, *given: Any) -> None:
        mark(self, *given)
        lose(Run.open(path))

    monkeypatch.setattr(Checkpoints, "mark_best", losing)
    with pytest.raises(UserError, match=r"runs/tiny: the run was deleted or replaced while it was used"):
        step.train(tiny_recipe(), path, QUIET)
    assert path.exists() == (lose is replaced)
    assert [file.name for file in Path(path, "checkpoints").glob("epoch-*")] == (
        ["epoch-000001.pt"] if lose is replaced else []
    )


# -- two at once

HOLD = "import sys; from pathlib import Path; from nasdeploy.store.files import locked_while_written as hold\n"
HOLD += "with hold(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Another process writes there."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "held\n"
        yield
        process.stdin.close()


def test_two_exports_into_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    mine = tmp_path / ".out.abc.partial"
    with held(out):
        mine.mkdir()
        with pytest.raises(UserError, match=f"^{out}: in use by another process; run"), staging(out):
            pass
        assert mine.exists()
    with staging(out) as folder:
        assert folder.is_dir()
        assert not mine.exists()
    assert list(tmp_path.iterdir()) == []


def test_two_recipes_of_one_name(tmp_path: Path) -> None:
    with (
        held(tmp_path / "recipe.yaml"),
        pytest.raises(UserError, match=r"recipe\.yaml: in use by another process"),
    ):
        init(tmp_path, tmp_path / "recipe.yaml", force=True)
    with pytest.raises(UserError), locked_while_written(tmp_path / "file"):
        raise UserError("what is written fails")
    assert list(tmp_path.iterdir()) == []
