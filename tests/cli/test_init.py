import json
from pathlib import Path

import pytest

from nasdeploy.cli.run import init
from nasdeploy.cli.space import find_space
from nasdeploy.core.errors import UserError
from nasdeploy.data.datasets import open_data
from nasdeploy.recipe import load_recipe
from tests.data.pictures import write_folder
from tests.data.shards import write_shards


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "photos", {"train": {"a": 12, "b": 12}}, side=8)


@pytest.fixture
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasdeploy.initial_recipe.choices.seconds_per_image", lambda *_: 0.01)


def test_writes_a_recipe_that_fits_and_says_so(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "recipe.yaml"
    init(photos, out, hours=1.0, as_json=True)
    result = json.loads(capsys.readouterr().out)
    recipe = load_recipe(str(out))
    assert result["classes"] == ["a", "b"]
    assert (result["space"], result["epochs"]) == (recipe.space, recipe.train.epochs) == ("digits", 360)
    assert 0 < result["estimated_training_s"] < 3600
    sets = open_data(recipe.data, recipe.seed)
    assert sum(map(len, (sets.train, sets.search, sets.test))) == 24


@pytest.mark.usefixtures("_fast")
def test_notes_about_the_folder_are_shown_unless_quiet(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "train/a/notes.txt").write_text("x")
    init(photos, tmp_path / "1.yaml")
    shown = capsys.readouterr()
    assert "a: 1 of 13 are .txt, which are no images" in shown.err
    assert shown.out.startswith(f"wrote {tmp_path}/1.yaml: space digits, 360 epochs")
    init(photos, tmp_path / "2.yaml", quiet=True)
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("_fast")
def test_shards_are_found(tmp_path: Path) -> None:
    root = write_shards(tmp_path / "shards", {"train": {"a": 12, "b": 12}}, side=8)
    init(root, tmp_path / "recipe.yaml")
    recipe = load_recipe(str(tmp_path / "recipe.yaml"))
    assert (recipe.data.kind, recipe.data.path, recipe.data.size) == ("shards", str(root), 8)
    assert find_space(str(tmp_path / "recipe.yaml")).digest == recipe.load_space(2).digest


@pytest.mark.usefixtures("_fast")
def test_an_existing_file_is_kept_unless_forced(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "recipe.yaml"
    out.write_text("mine")
    with pytest.raises(UserError, match=r"exists already; pass --force"):
        init(photos, out)
    assert out.read_text() == "mine"
    init(photos, out, force=True)
    assert load_recipe(str(out)).name == "photos"


def test_a_folder_of_the_wrong_form_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no train folder"):
        init(tmp_path, tmp_path / "recipe.yaml")
    assert not (tmp_path / "recipe.yaml").exists()
