"""`import nasdeploy as nd`: the same as the commands, with objects."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nasdeploy as nd
from nasdeploy.api import asked_for
from nasdeploy.recipe import parse_recipe
from tests.data.own import Pictures
from tests.exporting.converted import functions_read_once  # noqa: F401
from tests.hasty import measure_hastily
from tests.layers import modules
from tests.training.recipes import CONTENT, tiny_recipe


def test_importing_it_imports_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import nasdeploy; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {name for name in done.stdout.split() if name.split(".")[0] not in sys.stdlib_module_names} == {"nasdeploy"}


def test_public_names_are_there_and_documented() -> None:
    assert sorted(nd.__all__) == sorted(name for names in nd._HOMES.values() for name in names)
    assert set(nd.__all__) <= set(dir(nd))
    for name in nd.__all__:
        found = getattr(nd, name)
        assert found.__doc__, name
        assert found.__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        _ = nd.serach


def test_no_module_takes_the_name_of_a_function() -> None:
    """The import of a module sets the attribute of that name in its package."""
    assert set(nd.__all__) & {name.split(".")[1] for name in modules() if "." in name} == set()


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_budgets_are_numbers_ranges_and_mappings(low: float, high: float) -> None:
    (text,) = asked_for({"macs_m": (low, high)})["macs"]
    assert [float(side) for side in text.split("..")] == [low, high]
    assert asked_for({"latency_ms": {"cpu": low, "pi": (None, high)}}) == {
        "latency": (f"cpu={low!r}", f"pi=..{high!r}")
    }
    assert asked_for({"latency_ms": "40%", "params_m": None}) == {"latency": ("40%",)}


def test_an_unknown_budget_is_refused_with_the_nearest() -> None:
    with pytest.raises(nd.UserError, match="unknown budget 'latency_sm'; did you mean 'latency_ms'"):
        asked_for({"latency_sm": 3})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> nd.Run:
    """A run whose space and data are Python objects."""
    return nd.train(recipe(), data=datasets(), space=space(), run=tmp_path_factory.mktemp("runs") / "own")


def recipe() -> nd.Recipe:
    return tiny_recipe("train.epochs=1", "train.warmup_epochs=0", "search.rounds=1", "search.parents=4")


def datasets() -> dict[str, Pictures]:
    return {"train": Pictures.random(60, seed=1), "test": Pictures.random(12, seed=2)}


def space() -> nd.SearchSpace:
    content = json.loads(json.dumps(CONTENT["space"]))
    content["stages"][0]["width"] = [8]
    return parse_recipe({**CONTENT, "space": content}, "own").load_space(3)


def test_a_space_and_data_of_ones_own_go_the_whole_way(
    trained: nd.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure_hastily(monkeypatch)
    assert trained.is_finished("train")
    assert trained.manifest.space == space().digest
    result = nd.search(trained, data=datasets(), space=space(), macs_m=1.0)
    assert result.winner.costs["macs"] <= 1e6
    export = nd.export(trained, data=datasets(), space=space(), out=tmp_path / "out")
    assert export.models[0].is_file()
    assert export.manifest.digest == result.winner.digest


def test_objects_that_are_not_passed_again_are_asked_for(trained: nd.Run) -> None:
    with pytest.raises(nd.UserError, match="is a Python object and in no file"):
        nd.search(trained, data=datasets(), macs_m=1.0)
    with pytest.raises(nd.UserError, match="Python objects and in no file"):
        nd.search(trained, space=space(), macs_m=1.0)


def test_other_pictures_are_not_those_of_the_run(trained: nd.Run) -> None:
    other = {**datasets(), "train": Pictures.random(60, seed=3)}
    with pytest.raises(nd.UserError, match="not the images that"):
        nd.search(trained, data=other, space=space(), macs_m=1.0)


def test_a_budget_out_of_reach_says_what_can_be_reached(trained: nd.Run) -> None:
    with pytest.raises(nd.InfeasibleBudget, match="M"):
        nd.search(trained, data=datasets(), space=space(), macs_m=1e-6)


def test_a_recipe_is_an_object_a_file_or_a_mapping(tmp_path: Path) -> None:
    with pytest.raises(nd.UserError, match="unknown recipe 'digit'; did you mean 'digits'"):
        nd.train("digit")
    changed = {"train.epochs": 1, "train.warmup_epochs": 0, "name": "mapped"}
    run = nd.train({**CONTENT, "train": {**CONTENT["train"], "epochs": 9}}, changes=changed, run=tmp_path / "r")
    assert run.manifest.recipe["train"]["epochs"] == 1
    assert run.manifest.name == "r"
    assert "top1" in run.facts("train")["validation"]["largest"]


def test_nothing_is_said_unless_it_is_asked_for(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    nd.train(recipe(), run=tmp_path / "quiet")
    assert capfd.readouterr() == ("", "")
    nd.train(recipe(), run=tmp_path / "told", progress=True)
    told = capfd.readouterr()
    assert told.out == ""
    assert "images of 10 classes" in told.err
