"""`nasdeploy profile`: what it measures when it is told little."""

import json
from functools import partial
from pathlib import Path

import pytest
import yaml

from nasdeploy.cli.profile import profile
from nasdeploy.core.errors import UserError
from nasdeploy.latency import profile as measuring
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds
from nasdeploy.latency.table import find_table
from nasdeploy.recipe import load_recipe
from nasdeploy.runtimes.device import load_device
from nasdeploy.store.run import RUNS, Run
from tests.wording import assert_stops

RECIPE = {
    "name": "small",
    "data": {"kind": "digits", "size": 8},
    "space": {
        "name": "tiny",
        "resolution": [8, 12],
        "stem": {"width": [8], "stride": 1},
        "stages": [{"width": [8], "depth": [1, 2], "kernel": [3], "expand": [2], "stride": 2}],
        "head": {"width": [16], "expand": 2},
    },
}
HASTY = MeasurementProtocol(
    Rounds(9, 1),
    Rounds(9, 1),
    warmup=1,
    kept=1,
    shortest_run_s=1e-6,
    shortest_group_s=0,
    retries=0,
    calibration_networks=2,
    held_out_networks=2,
)


@pytest.fixture(autouse=True)
def _workplace(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measuring, "profile", partial(measuring.profile, protocol=HASTY))


@pytest.fixture
def recipe():
    Path("small.yaml").write_text(yaml.safe_dump(RECIPE))
    return load_recipe("small.yaml")


@pytest.fixture
def run(recipe):
    classes = ("a", "b", "c")
    digest = recipe.load_space(len(classes)).digest
    return Run.create(RUNS, "small", recipe=recipe.to_json(), space=digest, classes=classes, seed=0)


def test_a_recipes_space_with_a_number_of_classes(recipe, capsys):
    profile(space="small.yaml", classes=7, as_json=True)
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    table = find_table(recipe.load_space(7), load_device("cpu"))
    assert Path(result["table"]).exists()
    assert result["table"] in printed.err
    assert (result["space"], result["classes"], result["device"]) == ("tiny", 7, "cpu")
    assert result["blocks"] == len(table.entries)
    assert result["networks"] == len(table.networks) == 4
    assert 0 < result["fastest_ms"] < result["slowest_ms"]


def test_the_latest_runs_space_and_classes_by_default(run, recipe, capsys):
    profile()
    assert "run: runs/small" in capsys.readouterr().err
    assert find_table(recipe.load_space(3), load_device("cpu")).conditions.classes == 3


def test_a_budget_that_is_too_small_says_what_is_needed(recipe):
    with assert_stops(UserError, match=r"--budget-min 1e-05 is too short.*give at least --budget-min 0\.1"):
        profile(space="small.yaml", budget_min=1e-5, quiet=True)
    profile(space="small.yaml", budget_min=5.0, quiet=True)


def test_a_given_run_and_quiet(run, capsys):
    profile(run="runs/small", quiet=True)
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.startswith("measured profiles/tables/cpu-tiny-")
    assert printed.out.endswith("continue with: nasdeploy search --device cpu --latency 40% --run runs/small\n")


def test_a_users_own_device(recipe, capsys):
    Path("mine.yaml").write_text("name: mine\nruntime: onnxruntime\nbatch: 2\n")
    profile(device="mine.yaml", space="small.yaml", as_json=True)
    result = json.loads(capsys.readouterr().out)
    assert (result["device"], result["classes"]) == ("mine", 10)
    assert Path(result["table"]).name.startswith("mine-tiny-")


def test_measured_already_unless_restart(recipe):
    profile(space="small.yaml", quiet=True)
    with pytest.raises(UserError, match="measured already"):
        profile(space="small.yaml", quiet=True)
    profile(space="small.yaml", restart=True, quiet=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"space": "digts"}, "unknown search space 'digts'; did you mean 'digits'"),
        ({"space": "absent.yaml"}, "absent.yaml: no such recipe file"),
        ({"space": "digits", "device": "gpu9"}, "unknown device 'gpu9'"),
        ({"space": "digits", "run": "runs/x"}, "--space and --run exclude each other"),
        ({"classes": 3}, "--classes belongs to --space"),
        ({"space": "digits", "budget_min": 0.0}, "--budget-min 0: give a positive number of minutes"),
        ({"space": "digits", "budget_min": float("nan")}, "--budget-min nan: give a positive"),
        ({"run": "runs/absent"}, "runs/absent: no run there"),
        ({}, "no run in runs"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        profile(**options)
