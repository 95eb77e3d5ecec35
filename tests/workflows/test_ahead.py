"""What `nasdeploy run` says before it trains."""

import sys
from pathlib import Path
from typing import Any

import pytest

from nasdeploy.cli.main import main
from nasdeploy.core.errors import InfeasibleBudget, UserError
from nasdeploy.core.progress import Progress
from nasdeploy.latency.table import table_path
from nasdeploy.recipe import load_recipe
from nasdeploy.runtimes.device import load_device
from nasdeploy.runtimes.openvino import OpenVino
from nasdeploy.searching.budget import Asked
from nasdeploy.training.trainer import Trainer
from nasdeploy.workflows.request import export_device
from nasdeploy.workflows.run import run_all
from tests.data.pictures import write_folder
from tests.exporting.models import DEVICE
from tests.small_spaces import ONE_STAGE
from tests.wording import assert_stops
from tests.workflows.runs import table_of

RECIPE = f"""
name: x
space: {ONE_STAGE.model_dump_json()}
data: {{kind: folder, path: images, size: 12, workers: 0}}
"""
BOARD = "name: board\nruntime: onnxruntime\nhost: ssh://pi@board\n"


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(Path("images"), {"train": {"ant": 4, "bee": 4, "cat": 4}}, side=8)
    Path("x.yaml").write_text(RECIPE)
    Path("board.yaml").write_text(BOARD)
    monkeypatch.setattr(OpenVino, "missing", lambda self: "pip install openvino")
    monkeypatch.setattr(Trainer, "run", lambda *given: pytest.fail("it trains"))


def run(bounds: Asked, *assignments: str, strict: bool = False) -> None:
    run_all(load_recipe("x.yaml", assignments), Path("runs/x"), bounds, Progress(quiet=True), strict=strict)


@pytest.mark.parametrize(
    ("assignments", "bounds", "message"),
    [
        ([], {}, "no budget given: use --latency-ms X, .* or set search.latency in the recipe"),
        (["train.sampling={kind: alone, arch: {resolution: 8}}"], {"macs": ("1",)}, "there is nothing to search; use"),
        ([], {"latency": ("gpux=5",)}, "unknown device 'gpux'"),
        (["search.latency={gpux: 5ms}"], {}, "unknown device 'gpux'"),
        (["device=gpux"], {"macs": ("1",)}, "unknown device 'gpux'"),
        ([], {"latency": ("cpu-openvino=5",)}, "openvino is not installed; run: pip install openvino"),
        (["device=cpu-openvino"], {"macs": ("1",)}, "openvino is not installed; run: pip install openvino"),
        (
            ["device=board.yaml"],
            {"latency": ("5",)},
            "device board: 'nasdeploy run' ends with an export that is proved",
        ),
        ([], {"latency": ("40 percent",)}, "latency budget '40 percent': write milliseconds"),
        ([], {"macs": ("many",)}, "--macs-m many: give a finite number"),
        ([], {"latency": ("5", "cpu=40%")}, "device cpu has two latency budgets"),
    ],
)
def test_what_would_fail_after_training_is_said_before(
    assignments: list[str], bounds: dict[str, Any], message: str
) -> None:
    with assert_stops(UserError, match=message):
        run(bounds, *assignments)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "bounds",
    [
        {"macs": ("0.000001",)},
        {"params": ("..0.0000001",)},
        {"latency": ("cpu=0.000001",)},
        {"size": ("9..",)},
    ],
)
def test_a_budget_that_no_network_meets_is_said_before(bounds: Asked) -> None:
    space = load_recipe("x.yaml").load_space(3)
    table_of(DEVICE).save(table_path(space, DEVICE))
    with pytest.raises(InfeasibleBudget, match="the space reaches from"):
        run(bounds)
    assert not Path("runs").exists()


def test_a_table_of_another_device_is_refused_before_if_it_is_going_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    space = load_recipe("x.yaml").load_space(3)
    table_of(DEVICE).save(table_path(space, DEVICE))
    monkeypatch.setattr("nasdeploy.latency.runners.open_runner.differences", lambda before, now: ["cores: 2, was 4"])
    with pytest.raises(UserError, match="measured on another device"):
        run({"latency": ("90%",)}, strict=True)
    assert not Path("runs").exists()


def test_a_place_for_the_table_that_cannot_be_written_is_said_before() -> None:
    Path("profiles").write_text("")
    with pytest.raises(UserError, match=r"profiles/tables/table\.json: cannot be written"):
        run({"latency": ("5",)})


def test_several_processes_are_refused_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with assert_stops(UserError, match="torchrun: only 'nasdeploy train' and"):
        run({"macs": ("1",)})


def test_the_command_ends_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["nasdeploy", "run", "x.yaml"])
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr().err
    assert (stopped.value.code, said.count("\n")) == (2, 1)
    assert said.startswith("nasdeploy: no budget given")


@pytest.mark.parametrize(
    ("latency", "device"),
    [
        ((), "cpu"),
        (("5",), "cpu"),
        (("cpu-openvino=5",), "cpu-openvino"),
        (("board.yaml=5", "cpu-openvino=6"), "cpu-openvino"),
    ],
)
def test_the_export_is_for_the_first_device_of_this_machine(latency: tuple[str, ...], device: str) -> None:
    assert load_device(export_device(load_recipe("x.yaml"), {"latency": latency})).name == device
