"""Recipes: shipped ones are right, and a wrong one is refused in a line that names the key."""

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import UserError
from nasdeploy.core.resources import resource_names
from nasdeploy.core.settings import Settings
from nasdeploy.recipe import learned_differences, load_recipe, parse_recipe, recipe_of, space_of
from nasdeploy.spaces.mobilenet import MobileNetTable
from nasdeploy.store.run import Run
from nasdeploy.tasks import TASKS
from nasdeploy.tasks.classification import Classification
from tests.training.recipes import CONTENT, tiny_recipe


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(CONTENT))
    return tmp_path / "mine.yaml"


def refusal(*assignments: str, name: str = "mine.yaml", data: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        load_recipe(name, assignments, data)
    assert "\n" not in typed(caught.value)
    return typed(caught.value)


@pytest.mark.parametrize("name", resource_names("recipes"))
def test_shipped_recipes_load_by_name_with_their_space(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    space = recipe.load_space(10)
    assert space.plan(space.largest()).steps[-1].block.output.shape == (10,)
    assert parse_recipe(json.loads(json.dumps(recipe.to_json())), "again") == recipe


def test_a_file_comes_before_a_shipped_recipe_of_that_name(file: Path) -> None:
    file.rename("digits")
    assert load_recipe("digits").name == "tiny"


def test_everything_left_out_has_the_papers_values(file: Path) -> None:
    file.write_text("{name: x, space: alphanet, data: {kind: folder, path: /images, size: 224}}")
    train = load_recipe("mine.yaml").train
    # AlphaNet, appendix B.
    assert (train.epochs, train.learning_rate, train.momentum, train.nesterov) == (360, 0.1, 0.9, True)
    assert (train.weight_decay, train.warmup_epochs, train.label_smoothing) == (1e-5, 5, 0.1)
    assert (train.dropout, train.drop_connect, train.clip_value, train.random_networks) == (0.2, 0.2, 1.0, 2)
    distillation = train.distillation
    assert (distillation.kind, distillation.alpha_min, distillation.alpha_max, distillation.clip) == ("alpha", -1, 1, 5)
    recalibration = load_recipe("mine.yaml").recalibration
    assert (recalibration.batch_size, recalibration.batches, recalibration.search_batches) == (256, 64, 32)


def test_an_inline_table_is_a_space_of_its_own(file: Path) -> None:
    recipe = load_recipe("mine.yaml")
    assert isinstance(recipe.space, MobileNetTable)
    space = recipe.load_space(7)
    assert (space.name, space.size) == ("tiny", 2 * 2 * 2 * 2 * 2)
    assert [choice.name for choice in space.choices if len(choice.values) > 1] == [
        "resolution",
        "width.1",
        "depth.0",
        "kernel_size.1",
        "expand_ratio.0",
    ]
    assert space.plan(space.largest()).steps[-1].block.output.shape == (7,)


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("trian.epochs=3", "mine.yaml: unknown key 'trian'; did you mean 'train'?"),
        ("train.epoch=3", "mine.yaml: unknown key 'train.epoch'; did you mean 'epochs'?"),
        (
            "train.distillation.alpha_mx=1",
            "mine.yaml: unknown key 'train.distillation.alpha_mx'; did you mean 'alpha_max'?",
        ),
        ("data.siez=8", "mine.yaml: unknown key 'data.siez'; did you mean 'size'?"),
        ("space.stem.widht=[8]", "mine.yaml: unknown key 'space.stem.widht'; did you mean 'width'?"),
        ("train.epochs=0", "mine.yaml: train.epochs is 0: input should be greater than or equal to 1"),
        ("train.label_smoothing=1", "mine.yaml: train.label_smoothing is 1: input should be less than 1"),
        (
            "train.distillation.kind=beta",
            "train.distillation.kind is \"beta\": input should be 'alpha', 'kl', 'cross-entropy' or 'none'",
        ),
        ("train.warmup_epochs=9", "warmup_epochs is 9.0, more than the 3 epochs"),
        ("train={compile: true, sync_bn: true}", "compile excludes sync_bn, in which processes meet inside a block"),
        ("train.momentum=0", "nesterov needs momentum; set nesterov: false"),
        ("name=a/b", 'mine.yaml: name is "a/b": string should match pattern'),
        ("data.kind=photos", "mine.yaml: data.kind is \"photos\": input should be 'folder'"),
        ("space.resolution=[10, 8]", "list the values in ascending order, each once"),
        ("space.resolution=[1, 8]", "resolution 1 is smaller than the product of the strides, 2"),
        ("space=alphnet", "mine.yaml: space is \"alphnet\": unknown search space; did you mean 'alphanet'?"),
        ("space=3", "mine.yaml: space is 3: input should be a valid string"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(assignment: str, said: str, file: Path) -> None:
    assert said in refusal(assignment)


def test_mistakes_in_a_list_of_stages_are_located(file: Path) -> None:
    content = json.loads(json.dumps(CONTENT))
    content["space"]["stages"][1]["kernal"] = [3]
    file.write_text(yaml.safe_dump(content))
    assert "unknown key 'space.stages.1.kernal'; did you mean 'kernel'?" in refusal()
    content["space"]["stages"][1] = {"width": [16], "depth": [1], "kernel": [4], "expand": [2]}
    file.write_text(yaml.safe_dump(content))
    assert "space.stages.1.kernel is [4]: kernel sizes are odd" in refusal()


def test_set_changes_the_recipe(file: Path) -> None:
    recipe = load_recipe("mine.yaml", ["train.epochs=5", "train.distillation.kind=kl", "space=digits", "seed=4"])
    assert (recipe.train.epochs, recipe.train.distillation.kind, recipe.seed) == (5, "kl", 4)
    assert recipe.load_space(10).name == "digits"
    assert recipe.train.batch_size == CONTENT["train"]["batch_size"]


def test_data_paths_become_absolute(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    file.write_text("{name: x, space: digits, data: {kind: folder, path: images, size: 8}}")
    assert load_recipe("mine.yaml").data.path == str(tmp_path / "images")
    assert load_recipe("mine.yaml", ["data.path=other/x"]).data.path == str(tmp_path / "other/x")
    assert load_recipe("mine.yaml", data="given").data.path == str(tmp_path / "given")
    assert load_recipe("mine.yaml", data="~/photos").data.path == "/home/anna/photos"


def test_images_lie_in_one_place(file: Path) -> None:
    assert refusal("data.path=other", data="given") == (
        "--data given and --set data.path=other both say where the images are; leave one of them out"
    )


def test_a_section_is_written_once(file: Path) -> None:
    file.write_text("name: x\nspace: digits\ntrain: {epochs: 9}\ndata: {kind: digits, size: 8}\ntrain: {}\n")
    assert refusal() == "mine.yaml: line 5: train: already written in line 3; write it once"


def test_what_older_rules_read_otherwise_is_refused(file: Path) -> None:
    file.write_text("name: x\nspace: digits\ndata: {kind: folder, path: 2024-05-01, size: 8}\n")
    assert refusal().startswith("mine.yaml: line 3: data.path: 2024-05-01 is a date in YAML 1.1")


def test_a_folder_is_no_place_for_digits(file: Path) -> None:
    assert "digits come with scikit-learn: leave path out" in refusal(data="images")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("digts", "unknown recipe 'digts'; did you mean 'digits'?"),
        ("none.yaml", "none.yaml: no such recipe file; check the path, or write one with 'nasdeploy init --data DIR'"),
        ("some/recipe", "some/recipe: no such recipe file"),
        ("mine.yaml", "mine.yaml: holds no settings"),
    ],
)
def test_what_is_no_recipe_is_refused(name: str, said: str, file: Path) -> None:
    file.write_text("")
    assert refusal(name=name).startswith(said)


def test_the_recipe_and_space_of_a_run(file: Path) -> None:
    recipe, space = tiny_recipe(), tiny_recipe().load_space(3)
    fields = {"recipe": recipe.to_json(), "classes": ["a", "b", "c"], "seed": 0}
    run = Run.create(Path("runs"), "tiny", space=space.digest, **fields)
    assert recipe_of(run) == recipe
    assert recipe_of(run, ["search.rounds=2"]).search.rounds == 2
    assert space_of(run).digest == space.digest
    with pytest.raises(UserError, match=r"runs/tiny/manifest\.json: unknown key 'search\.round'"):
        recipe_of(run, ["search.round=2"])
    for change in ("train.epochs=5", "seed=5", "data.holdout=0.4", "space=digits"):
        with pytest.raises(UserError, match=rf"runs/tiny: {change.split('=')[0]} cannot be changed any more"):
            recipe_of(run, [change])
    assert recipe_of(run, ["data.workers=3", "device=other", "name=x"]).data.workers == 3
    assert recipe_of(run, ["data.cache=disk"]).data.cache == "disk"
    other = Run.create(Path("runs"), "other", space="0123456789ab", **fields)
    with pytest.raises(UserError, match=r"runs/other: begun with another version of space tiny \(0123456789ab, now "):
        space_of(other)


def test_images_of_a_run_may_lie_elsewhere(file: Path, tmp_path: Path) -> None:
    file.write_text("{name: x, space: digits, data: {kind: folder, path: images, size: 8}}")
    fields = {"space": "0123456789ab", "classes": ["a", "b"], "seed": 0}
    run = Run.create(Path("runs"), "x", recipe=load_recipe("mine.yaml").to_json(), **fields)
    assert recipe_of(run, data="moved").data.path == str(tmp_path / "moved")
    assert recipe_of(run, ["data.path=moved"]).data.path == str(tmp_path / "moved")
    assert learned_differences(recipe_of(run), recipe_of(run, data="moved")) == []


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
)


@given(st.sampled_from(["space", "data", "train", "search", "recalibration", "name", "seed", "device"]), VALUES)
def test_whatever_a_recipe_holds_it_is_read_or_refused_in_one_line(key: str, value: object) -> None:
    said = ""
    try:
        parse_recipe({**CONTENT, key: value}, "r.yaml")
    except UserError as error:
        said = str(error)
    assert "\n" not in said
    assert not said or said.startswith("r.yaml: ")


class _Numbers(Settings):
    count: int = 3


def _with_task(monkeypatch: pytest.MonkeyPatch, **data: object) -> dict[str, object]:
    other = type("Other", (Classification,), {"name": "numbers", "data_settings": _Numbers})()
    monkeypatch.setitem(TASKS, "numbers", other)  # type: ignore[arg-type]
    return {"name": "x", "task": "numbers", "space": "digits", "data": data}


def test_the_task_says_what_the_section_data_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = parse_recipe(_with_task(monkeypatch, count=5), "x.yaml")
    assert recipe.data == _Numbers(count=5)
    assert parse_recipe(recipe.to_json(), "x.yaml") == recipe
    with pytest.raises(UserError, match="task numbers has no images"):
        _ = recipe.images


def test_what_is_wrong_in_another_tasks_data_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"x\.yaml: unknown key 'data\.size'"):
        parse_recipe(_with_task(monkeypatch, size=5), "x.yaml")
    with pytest.raises(UserError, match=r"x\.yaml: task is .number.: unknown task; did you mean 'numbers'"):
        parse_recipe({**_with_task(monkeypatch), "task": "number"}, "x.yaml")
