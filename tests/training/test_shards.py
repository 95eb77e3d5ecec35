"""A run on tar shards, stopped and taken up again."""

from pathlib import Path

import pytest
import torch

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.recipe import Recipe, parse_recipe
from nasdeploy.store.run import Run
from nasdeploy.training.sandwich import SandwichStep
from nasdeploy.workflows import train as step
from nasdeploy.workflows.resume import open_data_of
from tests.data.shards import write_shards
from tests.training.recipes import tiny_recipe


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_shards(Path("shards"), {"train": {"ant": 40, "bee": 30}, "test": {"ant": 2, "bee": 2}}, side=8)


def recipe(name: str, balance: str) -> Recipe:
    changes = ("train.epochs=2", "train.batch_size=16", "train.checkpoint_steps=1", "data.images_per_class=null")
    content = tiny_recipe(*changes).to_json()
    content["data"] |= {"kind": "shards", "path": "shards", "balance": balance}
    return parse_recipe({**content, "name": name}, "recipe")


def train(given: Recipe) -> Run:
    run = step.train(given, step.default_directory(given), Progress(quiet=True))
    assert run is not None
    return run


def weights(run: Run) -> dict[str, torch.Tensor]:
    (newest, *_) = sorted(run.checkpoints.glob("epoch-*.pt"), reverse=True)
    found: dict[str, torch.Tensor] = torch.load(newest, weights_only=True)["weights"]
    return found


@pytest.mark.parametrize("balance", ["none", "sampling"])
def test_an_interrupted_run_ends_as_an_undisturbed_one(balance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = weights(train(recipe("whole", balance)))
    with monkeypatch.context() as patch:
        call, calls = SandwichStep.__call__, []

        def sixth_stops(*given: object) -> object:
            calls.append(given)
            if len(calls) == 6:
                raise KeyboardInterrupt
            return call(*given)

        patch.setattr(SandwichStep, "__call__", sixth_stops)
        with pytest.raises(KeyboardInterrupt):
            train(recipe("again", balance))
    again = weights(train(recipe("again", balance)))
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_other_shards_are_refused() -> None:
    run = train(recipe("run", "none"))
    Path("shards/train/0000.tar").rename("shards/train/zzzz.tar")
    with pytest.raises(UserError, match=r"begun with, 5 renamed .*; the first is train/0000\.tar/"):
        open_data_of(run, recipe("run", "none"))
