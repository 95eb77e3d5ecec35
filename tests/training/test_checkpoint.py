"""Checkpoints: what a run that was stopped, however it was stopped, finds again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.recipe import Recipe
from nasdeploy.store.run import Run
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.training.checkpoint import Checkpoints, Position, TrainingState
from nasdeploy.training.monitor import Validation
from nasdeploy.training.settings import TrainSettings
from nasdeploy.workflows import train as step
from tests.small_spaces import two_stages
from tests.training.recipes import tiny_recipe
from tests.wording import assert_stops

QUIET = Progress(quiet=True)


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def train(recipe: Recipe, progress: Progress = QUIET) -> Run:
    run = step.train(recipe, step.default_directory(recipe), progress)
    assert run is not None
    return run


def names(run: Run) -> list[str]:
    return [path.name for path in Checkpoints(run.checkpoints).all()]


def killed(*given: Any) -> None:
    raise KeyboardInterrupt


# -- the best epoch


def validated_as(monkeypatch: pytest.MonkeyPatch, *accuracies: float) -> None:
    """Validations give these accuracies, one after the other."""
    left = iter(accuracies)
    monkeypatch.setattr(Validation, "__call__", lambda *given: {"smallest": {"top1": next(left)}})


@pytest.mark.parametrize("best", [1, 2, 3])
def test_a_kill_between_a_checkpoint_and_its_mark_leaves_the_best_epoch_marked(
    best: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe("train.kept_checkpoints=1")
    accuracies = [0.5 if epoch == best else 0.1 * epoch for epoch in (1, 2, 3)]
    validated_as(monkeypatch, *accuracies)
    mark = Checkpoints.mark_best

    def stop(self: Checkpoints, *arguments: Any) -> None:
        if names(Run.open(Path("runs/tiny"))) == [f"epoch-{best:06d}.pt"]:
            raise KeyboardInterrupt
        mark(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "mark_best", stop)
        with pytest.raises(KeyboardInterrupt):
            train(recipe)
    run = train(recipe)
    assert torch.load(run.checkpoints / "best.pt", weights_only=True)["epoch"] == best
    assert [json.loads(line)["epoch"] for line in run.metrics.read_text().splitlines()] == [1, 2, 3]


def test_of_equally_good_epochs_the_first_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    validated_as(monkeypatch, 0.4, 0.5, 0.5)
    assert torch.load(train(tiny_recipe()).checkpoints / "best.pt", weights_only=True)["epoch"] == 2


# -- what may change on the way


def interrupted_after_two_epochs(*assignments: str) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "mark_best", lambda self, position: killed() if position.epoch == 2 else None)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_recipe(*assignments))
    return Run.open(Path("runs/tiny"))


def test_a_checkpoint_of_before_processes_were_counted_is_resumed() -> None:
    newest = Checkpoints(interrupted_after_two_epochs().checkpoints).latest()
    content = torch.load(newest, weights_only=True)
    assert content.pop("processes") == 1
    torch.save(content, newest)
    assert train(tiny_recipe("train.world_size_change=refuse")).is_finished("train")


def test_parameters_are_updated_together_whatever_a_checkpoint_says(tmp_path: Path) -> None:
    kept, resumed = (TrainingState.fresh(Supernet(two_stages()), TrainSettings()) for _ in range(2))
    kept.position = Position(epoch=1)
    for group in kept.optimizer.param_groups:
        group["foreach"] = None
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(kept)
    found = checkpoints.newest()
    assert found is not None
    found.restore(resumed)
    assert all(group["foreach"] is True for group in resumed.optimizer.param_groups)


def test_how_often_and_how_many_checkpoints_may_change() -> None:
    interrupted_after_two_epochs()
    changed = tiny_recipe(
        "train.checkpoint_steps=1", "train.checkpoint_minutes=1", "train.kept_checkpoints=3", "train.most_skipped=1"
    )
    assert names(train(changed)) == ["epoch-000002-step-000002.pt", "epoch-000002-step-000003.pt", "epoch-000003.pt"]


# -- the only checkpoint, damaged


def test_without_another_checkpoint_the_best_one_serves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    validated_as(monkeypatch, 0.5, 0.4, 0.3, 0.2)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_recipe("train.kept_checkpoints=1"))
    (only,) = Checkpoints(Path("runs/tiny/checkpoints")).all()
    only.write_bytes(only.read_bytes()[:1000])
    validated_as(monkeypatch, 0.4, 0.3)
    again = train(tiny_recipe(), Progress())
    assert [json.loads(line)["epoch"] for line in again.metrics.read_text().splitlines()] == [1, 2, 3]
    said = capsys.readouterr().err
    assert f"train: {only} is damaged, and lies aside as {only.name}.damaged" in said
    assert "train: runs/tiny/checkpoints/best.pt serves instead, as epoch-000001.pt" in said
    assert "train: resumed after epoch 1 of 3" in said
    assert torch.load(only.with_name("best.pt"), weights_only=True)["epoch"] == 1


def test_without_any_other_checkpoint_training_starts_anew() -> None:
    only = Checkpoints(interrupted_after_two_epochs("train.kept_checkpoints=1").checkpoints).latest()
    only.write_bytes(b"")
    with assert_stops(
        UserError, match=r"epoch-000002\.pt: damaged, and no whole checkpoint is left; .*, or start anew with --restart"
    ):
        train(tiny_recipe("train.kept_checkpoints=1"))
