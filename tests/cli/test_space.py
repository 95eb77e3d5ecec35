"""`nasdeploy space show`: choices and costs, without torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from nasdeploy.cli.app import app
from nasdeploy.cli.space import find_space
from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import UserError
from nasdeploy.data.datasets import DATASETS, open_data
from nasdeploy.data.settings import KNOWN_CLASSES, DataSettings
from nasdeploy.spaces import SPACES, load_settings, load_space
from tests.data.pictures import write_folder
from tests.small_spaces import GROWN_CONTENT
from tests.training.recipes import CONTENT

A0 = {
    "resolution": 192,
    "width": [16, 16, 24, 32, 64, 112, 192, 216, 1792],
    "depth": [1, 3, 3, 3, 3, 3, 1],
    "kernel_size": [3, 3, 3, 3, 3, 3, 3],
    "expand_ratio": [1, 4, 4, 4, 4, 6, 6],
}


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # What is told of a space is one line.
    monkeypatch.setenv("COLUMNS", "120")


def show(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["space", "show", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def shown(*arguments: str) -> dict[str, Any]:
    result = json.loads(show(*arguments, "--json"))
    assert isinstance(result, dict)
    return result


def refusal(*arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        show(*arguments)
    assert "\n" not in typed(caught.value)
    return typed(caught.value)


def test_a_published_network_as_json() -> None:
    result = shown("alphanet", "--arch", "a0")
    assert result["arch"] == A0
    assert (result["space"], result["classes"]) == ("alphanet", 1000)
    assert type(result["macs"]) is type(result["params"]) is int
    assert round(result["macs"] / 1e6) == 203
    space = load_space("alphanet")
    plan = space.plan(space.named["a0"])
    assert (result["macs"], result["params"], result["blocks"]) == (plan.macs, plan.params, len(plan.steps))
    assert result["digest"] == space.named["a0"].digest


@pytest.mark.parametrize("form", ["name", "inline", "file", "digest", "smallest"])
def test_every_way_to_name_the_same_network(form: str) -> None:
    Path("a0.json").write_text(json.dumps(A0))
    ways = {
        "name": "a0",
        "inline": json.dumps(A0),
        "file": "a0.json",
        "digest": load_space("alphanet").named["a0"].digest[:6],
        "smallest": "smallest",
    }
    assert shown("alphanet", "--arch", ways[form]) == shown("alphanet", "--arch", "a0")


def test_a_space_as_json() -> None:
    result, space = shown("alphanet"), load_space("alphanet")
    assert (result["digest"], result["size"], result["blocks"], result["classes"]) == (
        space.digest,
        space.size,
        896,
        1000,
    )
    assert result["choices"]["resolution"] == [192, 224, 256, 288]
    assert result["choices"]["width.5"] == [112, 120, 128]
    assert set(result["named"]) == {"a0", "a1", "a2", "a3", "a4", "a5-small", "a5-base", "a6"}
    for costs in (result["smallest"], result["largest"], *result["named"].values()):
        assert type(costs["macs"]) is type(costs["params"]) is int
    assert result["smallest"] == result["named"]["a0"]
    assert result["largest"]["digest"] == space.largest().digest


def test_registered_spaces_are_listed() -> None:
    result = CliRunner().invoke(app, ["space", "list", "--json"])
    spaces = {each["space"]: each for each in json.loads(result.stdout)["spaces"]}
    assert set(spaces) == set(SPACES)
    digits = load_space("digits")
    assert spaces["digits"] == {
        "space": "digits",
        "kind": "table",
        "size": digits.size,
        "networks": digits.size,
        "macs": [digits.plan(digits.smallest()).macs, digits.plan(digits.largest()).macs],
    }
    lines = CliRunner().invoke(app, ["space", "list"]).stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["space", "kind"],
        *([name, load_settings(name).kind] for name in SPACES),
    ]


def test_text_for_people() -> None:
    text = show("digits")
    first, *lines = text.splitlines()
    assert first.startswith("space digits (")
    assert "for 1000 classes: 248,832 architectures" in first
    assert any(line.split() == ["resolution", "8,10,12"] for line in lines)
    assert any(line.split() == ["width", "16,24", "16,24", "24,32", "40,48", "96,128"] for line in lines)
    assert [line.split()[0] for line in lines[-2:]] == ["smallest", "largest"]
    first, *rows = show("alphanet", "--arch", "a0").splitlines()
    assert first == "2da0ac9b74d9 of space alphanet for 1000 classes"
    assert [row.split(maxsplit=1) for row in rows[:2]] == [
        ["costs", "203.39 M MACs, 8.954 M parameters"],
        ["blocks", "19"],
    ]


def test_classes_change_the_head_alone() -> None:
    many, few = shown("alphanet", "--arch", "a0"), shown("alphanet", "--arch", "a0", "--classes", "10")
    assert few["classes"] == 10
    assert many["macs"] - few["macs"] == 1792 * 990
    assert many["params"] - few["params"] == 1793 * 990
    assert many["digest"] == few["digest"]
    assert shown("alphanet")["digest"] != shown("alphanet", "--classes", "10")["digest"]


# -- spaces of recipes


def write_recipe(file: str, **changes: object) -> str:
    Path(file).write_text(yaml.safe_dump({**CONTENT, **changes}))
    return file


def test_a_recipe_shows_its_own_table_with_the_classes_of_its_data() -> None:
    result = shown(write_recipe("mine.yaml"))
    assert (result["space"], result["classes"], result["size"]) == ("tiny", 10, 32)
    assert shown(write_recipe("mine.yaml", space="cifar10"))["space"] == "cifar10"
    assert shown("mine.yaml", "--classes", "4")["classes"] == 4


def test_a_grown_space_shows_what_may_be_cut_stage_by_stage() -> None:
    lines = show(write_recipe("mine.yaml", space=GROWN_CONTENT)).splitlines()
    assert lines[0].startswith("space small-grown (")
    assert "for 10 classes: 48 architectures of " in lines[0]
    assert [line.split() for line in lines[1:5]] == [
        ["resolution", "9,12"],
        ["depth", "1", "1,2,3", "1,2"],
        ["kernel_size", "3", "3,5", "3"],
        ["middle", "100", "50,100", "100"],
    ]
    assert [line.split()[0] for line in lines[5:]] == ["network", "smallest", "original", "largest"]


def test_many_choices_of_equal_values_are_counted() -> None:
    lines = show("ofa-mbv3").splitlines()
    assert "5.44e+20 architectures of 1251 distinct blocks" in lines[0]
    assert [line.split() for line in lines[2:5]] == [
        ["depth", *["2,3,4"] * 5],
        ["kernel_size", "3,5,7", "(x20)"],
        ["expand_ratio", "3,4,6", "(x20)"],
    ]
    result = shown("ofa-mbv3")
    assert (result["size"], result["networks"]) == (25 * 3**45, 25 * 7371**5)


def test_a_folders_classes_are_counted() -> None:
    write_folder(Path("photos"), {"train": {"ant": 1, "bee": 1, "cat": 1}})
    recipe = write_recipe("mine.yaml", data={"kind": "folder", "path": "photos", "size": 8})
    assert shown(recipe)["classes"] == 3


def test_a_shipped_recipe_is_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasdeploy.spaces.SPACES", {"alphanet": "alphanet.yaml", "tiny": "digits.yaml"})
    recipe = Path("digits.yaml")
    recipe.write_text(yaml.safe_dump(CONTENT))
    monkeypatch.setattr("nasdeploy.core.resources._files", lambda folder: {"digits": recipe})
    assert find_space("digits").plan(find_space("digits").largest()).steps[-1].block.output.shape == (10,)


def test_the_known_numbers_of_classes_are_right() -> None:
    assert set(KNOWN_CLASSES) == set(DATASETS) - {"folder", "shards", "python"}
    digits = open_data(DataSettings(kind="digits", size=8), seed=0)
    assert KNOWN_CLASSES["digits"] == len(digits.classes)


# -- mistakes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["alphnet"], "unknown search space 'alphnet'; did you mean 'alphanet'? (or give a recipe file)"),
        (["none.yaml"], "none.yaml: no such recipe file"),
        (["mine.yaml"], "mine.yaml: data.path is 3: input should be a valid string"),
        (["gone.yaml"], "gone: no such folder"),
        (["alphanet", "--arch", "b0"], "--arch b0: not found"),
        (["alphanet", "--arch", "{"], "--arch: not valid JSON"),
        (["alphanet", "--arch", "none.json"], "none.json: cannot be read"),
        (["alphanet", "--arch", '{"resolution": 200}'], "architecture: resolution is 200; allowed: 192, 224, 256, 288"),
        (["alphanet", "--arch", json.dumps(A0 | {"depth": [1, 3, 3, 3, 3, 3, 9]})], "depth.6 is 9; allowed: 1, 2"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], said: str) -> None:
    Path("mine.yaml").write_text("{name: x, space: digits, data: {kind: folder, path: 3, size: 8}}")
    Path("gone.yaml").write_text("{name: x, space: digits, data: {kind: folder, path: gone, size: 8}}")
    assert said in refusal(*arguments)


def test_the_process_ends_with_two_and_one_line() -> None:
    command = [sys.executable, "-c", "from nasdeploy.cli.main import main; main()", "space", "show", "alphnet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("nasdeploy: unknown search space 'alphnet'")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [["alphanet"], ["alphanet", "--arch", "a0"], ["mine.yaml", "--json"]],
    ids=lambda given: " ".join(given),
)
def test_torch_stays_unimported(arguments: list[str]) -> None:
    write_recipe("mine.yaml")
    script = (
        "import sys\nfrom nasdeploy.cli.main import main\n"
        "try:\n    main()\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", script, "space", "show", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout
    modules = {name.split(".")[0] for name in done.stderr.splitlines()[-1].split()}
    assert "nasdeploy" in modules
    assert modules.isdisjoint({"torch", "torchvision", "timm", "onnx", "onnxruntime", "sklearn", "scipy", "matplotlib"})
