"""A finished run whose weights were lost or damaged: nothing goes on with those of the epoch before unasked.

In a run of an earlier version they are in its last checkpoint.
"""

import json
import shutil
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from nasdeploy.cli.main import main
from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.recipe import recipe_of, space_of
from nasdeploy.store.checkpoints import LostWeights, checkpoint_files, supernet_file, trained_weights, weights_in
from nasdeploy.store.files import write_json
from nasdeploy.store.run import Run
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.supernet.weights import keep_trained, load_supernet, read
from nasdeploy.workflows import train as step
from nasdeploy.workflows.evaluate import request_comparison
from nasdeploy.workflows.export import request_export
from nasdeploy.workflows.request import request_search
from nasdeploy.workflows.teacher import load_teacher
from tests.training.recipes import tiny_recipe
from tests.wording import assert_stops

QUIET = Progress(quiet=True)
COMMAND = "nasdeploy train --run runs/tiny"
SPEEDS = ("images_per_s", "peak_memory_gib")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("finished") / "runs/tiny"
    step.train(tiny_recipe(), directory, QUIET)
    return directory


@pytest.fixture
def new(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, "runs/tiny")
    return Run.open(Path("runs/tiny"))


@pytest.fixture
def run(new: Run) -> Run:
    """As an earlier version left it."""
    supernet_file(new).unlink()
    facts = {key: value for key, value in new.facts("train").items() if key != "supernet"}
    weights = weights_in(checkpoint_files(new.checkpoints)[-1]).facts.model_dump()
    new.finish("train", {**facts, "weights": weights})
    return new


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def newest_gone(run: Run) -> None:
    checkpoint_files(run.checkpoints)[-1].unlink()


def newest_damaged(run: Run) -> None:
    flipped(checkpoint_files(run.checkpoints)[-1])


def newest_of_another_training(run: Run) -> None:
    """Whole, and under its name, but with other weights."""
    path = checkpoint_files(run.checkpoints)[-1]
    content = torch.load(path, weights_only=True)
    for tensor in content["weights"].values():
        tensor += 1
    torch.save(content, path)


def only_the_best_left(run: Run) -> None:
    before, last = checkpoint_files(run.checkpoints)
    shutil.copy(before, run.checkpoints / "best.pt")
    before.unlink()
    flipped(last)


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["nasdeploy", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


@pytest.mark.parametrize("lose", [newest_gone, newest_damaged, newest_of_another_training, only_the_best_left])
def test_the_last_epoch_is_trained_again_bit_for_bit(
    lose: Callable[[Run], None], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (*_, newest), facts = checkpoint_files(run.checkpoints), run.facts("train")
    weights = trained_weights(run)
    assert weights.facts.model_dump() == facts["weights"]
    before = newest.read_bytes()
    lose(run)
    with assert_stops(LostWeights, match=f"epoch-000003.pt: .*; '{COMMAND}' trains that epoch again"):
        trained_weights(run)
    assert command(monkeypatch, *COMMAND.split()[1:], "--quiet") == 0
    assert newest.read_bytes() == before
    again = Run.open(run.path)
    assert trained_weights(again) == weights
    assert {key: value for key, value in again.facts("train").items() if key not in SPEEDS} == {
        key: value for key, value in facts.items() if key not in SPEEDS
    }
    assert command(monkeypatch, *COMMAND.split()[1:], "--quiet") == 2


def test_without_any_whole_checkpoint_nothing_is_trained_unasked(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in run.checkpoints.iterdir():
        path.write_bytes(b"")
    with assert_stops(LostWeights, match=f"restore it, or train anew with '{COMMAND} --restart'"):
        trained_weights(run)
    assert command(monkeypatch, *COMMAND.split()[1:], "--quiet") == 2
    assert "no whole checkpoint is left; restore one, or start anew with --restart" in capsys.readouterr().err
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["best.pt", "epoch-000002.pt", "epoch-000003.pt"]
    run.checkpoints.joinpath("best.pt").unlink()
    shutil.rmtree(run.checkpoints)
    assert command(monkeypatch, *COMMAND.split()[1:], "--quiet") == 2


def _teach(run: Run) -> Any:
    recipe = tiny_recipe(f"train.distillation.teacher=run:{run.path}")
    return load_teacher(recipe, run.manifest.classes, 4, torch.device("cpu"))


@pytest.mark.parametrize(
    "use",
    [
        lambda run: request_export(run, recipe_of(run), "largest", None, QUIET),
        lambda run: request_search(run, recipe_of(run), {"macs": ("1",)}, False, QUIET),
        lambda run: request_comparison([run.path], 2, 1),
        lambda run: step.train(tiny_recipe("name=new"), Path("runs/new"), QUIET, init=run.path),
        _teach,
    ],
    ids=["export", "search", "evaluate", "init", "teacher"],
)
def test_whatever_needs_the_weights_refuses_those_of_the_epoch_before(use: Callable[[Run], Any], run: Run) -> None:
    newest_gone(run)
    with assert_stops(UserError, match=f"the checkpoint that training ended with is gone; '{COMMAND}' trains"):
        use(run)
    assert not Path("runs/new").exists()


def test_a_run_of_an_earlier_version_knows_its_last_epoch(run: Run) -> None:
    facts = {key: value for key, value in run.facts("train").items() if key != "weights"}
    run.finish("train", facts)
    newest = checkpoint_files(run.checkpoints)[-1]
    assert trained_weights(run).path == newest
    flipped(newest)
    with pytest.raises(LostWeights, match="damaged"):
        trained_weights(run)
    newest.unlink()
    with pytest.raises(LostWeights, match="is gone"):
        trained_weights(run)


def test_weights_that_cannot_be_had_again_bit_for_bit_are_told(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a GPU: here the file of the epoch before is another one."""
    before, last = checkpoint_files(run.checkpoints)
    content = torch.load(before, weights_only=True)
    content["weights"][next(iter(content["weights"]))] += 0.01
    torch.save(content, before)
    last.unlink()
    assert command(monkeypatch, *COMMAND.split()[1:]) == 0
    assert "not bit for bit those that training ended with before; search again" in capsys.readouterr().err


# -- the file that weights are handed on in


def lost(run: Run) -> None:
    supernet_file(run).unlink()


def flipped_there(run: Run) -> None:
    flipped(supernet_file(run))


def of_another_training(run: Run) -> None:
    keep_trained(run, run.manifest.space, Supernet(space_of(run)).state_dict(), 3)


def test_weights_are_handed_on_as_safetensors(new: Run) -> None:
    found = trained_weights(new)
    assert found.path == new.path / "supernet.safetensors"
    assert new.facts("train")["weights"] == {"epoch": 3, "sha256": sha256(found.path.read_bytes()).hexdigest()}
    last = read(checkpoint_files(new.checkpoints)[-1])
    with safe_open(found.path, framework="pt") as file:
        assert (
            json.loads(file.metadata()["nasdeploy"]).items()
            >= {"schema": 1, "space": last["space"], "epoch": 3}.items()
        )
        assert set(file.keys()) == set(last["weights"])
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in last["weights"].items())
    shutil.rmtree(new.checkpoints)
    assert trained_weights(new) == found
    load_supernet(found.path, space_of(new))


@pytest.mark.parametrize("lose", [lost, flipped_there, of_another_training])
@pytest.mark.parametrize("also", [lambda run: None, newest_gone, newest_damaged], ids=["alone", "gone", "damaged"])
def test_they_are_made_again_bit_for_bit(
    also: Callable[[Run], None], lose: Callable[[Run], None], new: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, facts = supernet_file(new).read_bytes(), new.facts("train")
    lose(new)
    also(new)
    with assert_stops(LostWeights, match=f"supernet.safetensors: .*; '{COMMAND}' makes them again"):
        trained_weights(new)
    assert command(monkeypatch, *COMMAND.split()[1:], "--quiet") == 0
    assert supernet_file(new).read_bytes() == before
    assert Run.open(new.path).facts("train")["weights"] == facts["weights"]
    assert command(monkeypatch, *COMMAND.split()[1:], "--quiet") == 2


def test_without_them_and_any_checkpoint_nothing_is_trained_unasked(
    new: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(new.checkpoints)
    supernet_file(new).unlink()
    with assert_stops(LostWeights, match=f"are gone; restore it, or train anew with '{COMMAND} --restart'"):
        trained_weights(new)
    assert command(monkeypatch, *COMMAND.split()[1:], "--quiet") == 2
    assert "no whole checkpoint is left; restore one, or start anew with --restart" in capsys.readouterr().err


def test_a_process_killed_before_the_run_was_finished_resumes(new: Run) -> None:
    """The file is there, and the manifest does not know of it."""
    before = supernet_file(new).read_bytes()
    manifest = json.loads((new.path / "manifest.json").read_text())
    del manifest["finished"]["train"]
    write_json(new.path / "manifest.json", manifest)
    again = step.train(tiny_recipe(), new.path, QUIET)
    assert again is not None
    assert supernet_file(again).read_bytes() == before
    assert again.facts("train")["weights"] == new.facts("train")["weights"]


def test_a_manifest_that_was_edited_is_told(new: Run) -> None:
    new.finish("train", {**new.facts("train"), "supernet": {"sha256": "none"}})
    with pytest.raises(UserError, match=r"manifest\.json: finished\.train\.supernet: sha256 is .*; restore it"):
        trained_weights(new)


def test_train_needs_a_recipe_or_a_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(monkeypatch, "train") == 2
    assert "no recipe given; name one, or with --run DIR a run to go on with" in capsys.readouterr().err
    assert command(monkeypatch, "train", "--run", "runs/none") == 2
    assert "runs/none: no run there" in capsys.readouterr().err
