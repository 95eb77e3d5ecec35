"""A run on pictures that are kept decoded ends as one that decodes them each time."""

from pathlib import Path

import pytest

from nasdeploy.recipe import Recipe, parse_recipe
from tests.data.pictures import write_folder
from tests.training.recipes import tiny_recipe
from tests.training.test_trainer import QUIET, Interrupting, assert_same, outcome, train


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write_folder(Path("pictures"), {"train": {"cat": 30, "dog": 30}}, side=12)


def recipe(name: str, cache: str) -> Recipe:
    changes = ("train.epochs=2", "train.batch_size=12", "train.checkpoint_steps=1", "data.images_per_class=null")
    content = tiny_recipe(*changes).to_json()
    content["data"] |= {"kind": "folder", "path": "pictures", "cache": cache, "augment": {"policy": "none"}}
    return parse_recipe({**content, "name": name}, "recipe")


def test_a_run_is_the_same_wherever_pictures_are_kept(tmp_path: Path) -> None:
    plain = outcome(train(recipe("plain", "none"), QUIET))
    with pytest.raises(KeyboardInterrupt):
        train(recipe("kept", "disk"), Interrupting(4))
    assert list((tmp_path / "home").rglob("*.rgb"))
    assert_same(outcome(train(recipe("kept", "memory"), QUIET)), plain)
