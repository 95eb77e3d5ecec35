"""One budget on several devices, and which of them lets the best network in."""

import json
import sqlite3
import sys
from pathlib import Path

import pytest

import nasdeploy as nd
from nasdeploy.cli.main import main
from nasdeploy.core.errors import InfeasibleBudget, UserError
from nasdeploy.core.progress import Progress
from nasdeploy.latency.table import table_path
from nasdeploy.recipe import recipe_of
from nasdeploy.runtimes.device import load_device
from nasdeploy.searching.result import load_result
from nasdeploy.store.run import Run
from nasdeploy.supernet.evaluate import Evaluator
from nasdeploy.workflows.export import request_export
from nasdeploy.workflows.searches import results
from tests.exporting.models import timing
from tests.wording import assert_stops
from tests.workflows.runs import SPACE, table_of, trained_run

SECONDS = {"cpu": 1e-4, "fast": 0.5e-4, "slow": 1.0}
"""The seconds of a block on each device."""
FILES = ["cpu", "fast.yaml", "slow.yaml"]
LIMIT = 1e3 * table_of(load_device("cpu"), SECONDS["cpu"]).range(SPACE)[0] * 1.2
"""Milliseconds that a fifth more than the fastest network takes on `cpu`."""


class Machine:
    """Takes the place of measuring: as fast as the tables say, but for a factor by device."""

    def __init__(self) -> None:
        self.factors: dict[str, float] = {}

    def __call__(self, archs, network_of, space, device, progress):
        seconds = SECONDS[device.name] * self.factors.get(device.name, 1.0)
        return {arch: timing(seconds * len(SPACE.plan(arch).steps)) for arch in archs}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr("nasdeploy.workflows.search.measure_networks", made)
    return made


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine) -> Run:
    monkeypatch.chdir(tmp_path)
    made = trained_run(tmp_path)
    for name in ("fast", "slow", "new"):
        Path(f"{name}.yaml").write_text(f"name: {name}\nruntime: onnxruntime\nthreads: 2\n")
    for name in FILES:
        device = load_device(name)
        table_of(device, SECONDS[device.name]).save(table_path(SPACE, device))
    return made


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The digests of the networks that are scored."""
    found: list[str] = []
    score = Evaluator.__call__

    def counted(self, arch, *rest):
        found.append(arch.digest)
        return score(self, arch, *rest)

    monkeypatch.setattr(Evaluator, "__call__", counted)
    return found


def test_the_device_that_lets_the_best_network_in_is_told_and_kept(run: Run, scored: list[str]) -> None:
    found = nd.search_devices(FILES, run, latency_ms=LIMIT)
    on_cpu, on_fast, on_slow = found.searches
    assert on_cpu.result is not None and on_fast.result is not None
    assert [each.device.name for each in found.searches] == ["cpu", "fast", "slow"]
    assert (on_slow.result, on_slow.reason) == (None, on_slow.reason)
    assert "no network of this space has latency of" in str(on_slow.reason)
    assert on_cpu.result.devices == ("cpu",) and on_fast.result.devices == ("fast",)
    best = max((on_cpu.result, on_fast.result), key=lambda each: (each.winner.value, -each.winner.measured_ms))
    assert found.best == best == load_result(run.search_result)
    assert results(run) == [on_cpu.result, on_fast.result]
    # What one search scored the other one did not score again.
    assert len(scored) == len(set(scored))
    with sqlite3.connect(run.search_database) as database:
        assert {digest for (digest,) in database.execute("SELECT digest FROM evaluations")} == set(scored)
    # An export without further options is for the device.
    device = None if best.device == "cpu" else "fast.yaml"
    assert request_export(run, recipe_of(run), None, device, Progress(quiet=True)).device.name == best.device


def test_a_part_of_the_range_is_that_of_each_device(run: Run) -> None:
    found = nd.search_devices(FILES, run, latency_ms="60%")
    bounds = [each.result.budget.upper(each.device.name)["latency_ms"] for each in found.searches if each.result]
    expected = []
    for name, seconds in SECONDS.items():
        low, high = table_of(load_device("cpu"), seconds).range(SPACE)
        expected.append(pytest.approx(1e3 * (low + 0.6 * (high - low))))
        assert name
    assert bounds == expected


def test_a_device_that_misses_the_budget_when_it_is_measured_is_a_row(run: Run, machine: Machine) -> None:
    machine.factors["fast"] = 1000.0
    found = nd.search_devices(["cpu", "fast.yaml"], run, latency_ms=LIMIT)
    on_cpu, on_fast = found.searches
    assert found.best == on_cpu.result
    assert (on_fast.result, on_fast.to_json()["network"]) == (None, None)
    assert on_fast.reason
    machine.factors["cpu"] = 1000.0
    with pytest.raises(InfeasibleBudget, match=r"^on none of 2 devices; on cpu: "):
        nd.search_devices(["cpu", "fast.yaml"], run, latency_ms=LIMIT)
    assert load_result(run.search_result) == on_cpu.result


def test_a_budget_that_no_device_meets_is_answered_at_once(run: Run, scored: list[str]) -> None:
    with pytest.raises(InfeasibleBudget, match=r"^on none of 2 devices; on cpu: no network of this space has latency"):
        nd.search_devices(["cpu", "fast.yaml"], run, latency_ms=1e-5)
    assert scored == []


@pytest.mark.parametrize(
    ("devices", "budget", "message"),
    [
        (["cpu", "cpu"], {"latency_ms": 1}, "device cpu is named twice; name each once"),
        (["cpu", "cpux"], {"latency_ms": 1}, "unknown device 'cpux'; did you mean 'cpu'"),
        (["cpu", "new.yaml"], {"latency_ms": 1}, "profiles/tables/.*: no latency table yet of space .* on device new"),
        (["cpu", "fast.yaml"], {"macs_m": 1}, "several devices are chosen among by latency; give a budget with --lat"),
        (["cpu", "fast.yaml"], {"latency_ms": "cpu=1"}, "latency budget 'cpu=1': each of several devices is given the"),
    ],
)
def test_mistakes_end_in_one_line(run: Run, devices: list[str], budget: dict, message: str) -> None:
    with assert_stops(UserError, match=f"^{message}") as caught:
        nd.search_devices(devices, run, **budget)
    assert "\n" not in str(caught.value)


def test_several_processes_are_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="several devices are searched for by one process; leave out torchrun"):
        nd.search_devices(["cpu", "fast.yaml"], run, latency_ms=LIMIT)


def typed_in(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["nasdeploy", "search", "--quiet", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_the_command_prints_a_row_for_each_device(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    named = ["--device", "cpu,fast.yaml", "--device", "slow.yaml"]
    assert typed_in(monkeypatch, *named, "--latency-ms", f"{LIMIT}") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["device", "search", "network"]
    best = load_result(run.search_result)
    rows = {line.split()[0]: line for line in lines[1:4]}
    assert list(rows) == ["cpu", "fast", "slow"]
    assert best.winner.digest in rows[str(best.device)]
    assert rows["slow"].split()[1:] == ["-"] * 5
    assert lines[4].startswith("slow: no network of this space has latency of")
    assert lines[5].startswith(f"the result is search {best.id}, for device {best.device}, budget {best.device} ")
    assert typed_in(monkeypatch, *named, "--latency-ms", f"{LIMIT}", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["device"] for row in found["by_device"]] == ["cpu", "fast", "slow"]
    assert [row["measured_ms"] is None for row in found["by_device"]] == [False, False, True]
    assert found["winner"]["digest"] in {row["network"] for row in found["by_device"]}


def test_the_command_tells_mistakes_and_impossible_budgets_apart(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ("--device", "cpu", "--device", "fast.yaml")
    assert typed_in(monkeypatch, *both, "--latency-ms", "1e-5") == 3
    assert typed_in(monkeypatch, *both, "--latency-ms", "1", "--precision", "fp32") == 2
    assert "--precision fp32: several devices are named; name those that are" in capsys.readouterr().err
    assert typed_in(monkeypatch, "--device", "cpu", "--device", "cpu", "--latency-ms", "1") == 2
    assert typed_in(monkeypatch, *both, "--latency", "60%", "--dry-run") == 0
    assert capsys.readouterr().out.count("within the budget") == 2
