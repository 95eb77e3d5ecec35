"""What a search leaves behind."""

import math
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from torch.distributed import HashStore

from nasdeploy.core.cost_registry import NETWORK_COSTS
from nasdeploy.core.errors import InfeasibleBudget
from nasdeploy.core.progress import Progress
from nasdeploy.core.score import Score
from nasdeploy.core.settings import read_json
from nasdeploy.distributed.ranks import Meeting
from nasdeploy.latency.table import LatencyTable, table_path
from nasdeploy.recipe import recipe_of
from nasdeploy.runtimes.device import load_device
from nasdeploy.searching.budget import Budget
from nasdeploy.searching.finalists import found_of
from nasdeploy.searching.loss_table import read_loss_table
from nasdeploy.searching.problem import Candidate, Problem
from nasdeploy.searching.result import load_result
from nasdeploy.store.checkpoints import trained_weights
from nasdeploy.store.evaluations import Evaluation
from nasdeploy.store.files import write_json
from nasdeploy.store.run import Run
from nasdeploy.tasks.metrics import TOP1
from nasdeploy.workflows import run as whole_way
from nasdeploy.workflows.request import request_search
from nasdeploy.workflows.search import search
from tests.exporting.models import DEVICE, timing
from tests.small_spaces import ToySpace
from tests.workflows.runs import SPACE, table_of, trained_run
from tests.workflows.test_original import keep, other_network

QUIET = Progress(quiet=True)


@pytest.mark.parametrize(("cross_entropy", "written"), [(0.5, 0.5), (math.nan, None), (math.inf, None)])
def test_a_network_without_finite_logits_can_be_written(cross_entropy, written, tmp_path):
    space = ToySpace()
    arch = space.smallest()
    evaluation = Evaluation(arch.digest, arch.text, Score(TOP1, 0.1, 0.01, 10, cross_entropy), seconds=1.0)
    found = found_of(Candidate(arch, evaluation, dict.fromkeys(NETWORK_COSTS, 1.0)), Problem(space, Budget()), {})
    write_json(tmp_path / "found.json", found.model_dump(mode="json"))
    assert read_json(tmp_path / "found.json")["loss"] == written


class Machine:
    """Takes the place of measuring: as fast as the tables say times `factor`, and stopped on the device `stops_on`."""

    def __init__(self) -> None:
        self.measured: list[tuple[str, str]] = []
        self.factor, self.stops_on = 1.0, ""
        self.reference: float | None = None

    def __call__(self, archs, network_of, space, device, progress):
        if device.name == self.stops_on:
            raise KeyboardInterrupt
        self.measured += [(device.name, arch.digest) for arch in archs]
        seconds = {arch: self.factor * 1e-4 * len(SPACE.plan(arch).steps) for arch in archs}
        return {arch: replace(timing(seconds[arch]), reference=self.reference) for arch in archs}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr("nasdeploy.workflows.search.measure_networks", made)
    return made


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    made = trained_run(tmp_path)
    Path("board.yaml").write_text("name: board\nruntime: onnxruntime\nthreads: 2\n")
    for device in (DEVICE, load_device("board.yaml")):
        table_of(device).save(table_path(SPACE, device))
    return made


def searched(run: Run, *latency: str):
    return search(request_search(run, recipe_of(run), {"latency": latency}, False, QUIET), QUIET)


def test_a_search_for_two_devices_has_the_figures_of_both(run: Run, machine: Machine) -> None:
    result = searched(run, "cpu=90%", "board.yaml=1")
    assert result == load_result(run.search_result) == load_result(run.path / "searches/1.json")
    assert result.weights == trained_weights(run).facts
    assert result.devices == ("cpu", "board") == tuple(result.winner.latency)
    for one in result.winner.latency.values():
        assert one.predicted_ms == pytest.approx(one.measured_ms)
    assert {name for name, _ in machine.measured} == {"cpu", "board"}
    assert (run.path / "pareto.png").exists()
    assert run.facts("search")["devices"] == ["cpu", "board"]


def test_a_search_that_was_killed_measures_only_what_is_missing(run: Run, machine: Machine) -> None:
    machine.stops_on = "board"
    with pytest.raises(KeyboardInterrupt):
        searched(run, "cpu=90%", "board.yaml=1")
    on_cpu = list(machine.measured)
    assert on_cpu and {name for name, _ in on_cpu} == {"cpu"}
    machine.stops_on = ""
    result = searched(run, "cpu=90%", "board.yaml=1")
    assert machine.measured == [*on_cpu, *(("board", digest) for _, digest in on_cpu)]
    searched(run, "cpu=90%", "board.yaml=1")
    assert len(machine.measured) == 4 * len(on_cpu)
    assert [one.digest for one in result.finalists] == [digest for _, digest in on_cpu]


def test_a_search_that_found_nothing_leaves_no_measurements(run: Run, machine: Machine) -> None:
    machine.factor = 50.0
    with pytest.raises(InfeasibleBudget, match=r"cpu took 50\.00 to 50\.00 times as long as its table says"):
        searched(run, "90%")
    before = len(machine.measured)
    machine.factor = 1.0
    assert searched(run, "90%").winner.measured_ms is not None
    assert len(machine.measured) > before
    assert not run.search_result.with_name(".finalists.jsonl").exists()


def test_finalists_count_at_the_speed_of_the_table(run: Run, machine: Machine) -> None:
    """The machine is twice as fast as when the table was measured, and its reference graph says so."""
    table = LatencyTable.load(table_path(SPACE, DEVICE))
    known = {key: replace(one, reference=2e-4) for key, one in table.entries.items()}
    LatencyTable.fitted(table.conditions, table.created, known, table.networks, steadied=1.0).save(
        table_path(SPACE, DEVICE)
    )
    machine.factor, machine.reference = 0.5, 1e-4
    result = searched(run, "90%")
    assert result.winner.measured_ms == pytest.approx(result.winner.latency["cpu"].predicted_ms)
    assert result.rounds == 1


def test_a_table_of_loss_is_measured_for_the_strategy_that_goes_by_it_and_kept(run, machine, monkeypatch):
    searched(run, "100ms")
    losses = run.path / "losses.json"
    assert not losses.exists()
    recipe = recipe_of(run)
    additive = recipe.model_copy(update={"search": recipe.search.model_copy(update={"strategy": "additive"})})
    found = search(request_search(run, additive, {"latency": ("100ms",)}, False, QUIET), QUIET)
    table = read_loss_table(losses)
    assert table.missing(SPACE) == []
    assert table.supernet == found.supernet
    assert (run.path / "cuts.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(
        "nasdeploy.searching.measured_losses.write_loss_table", lambda *_: pytest.fail("measured again")
    )
    again = search(request_search(run, additive, {"latency": ("100ms",)}, False, QUIET), QUIET)
    assert again.winner.digest == found.winner.digest


def test_a_search_of_an_earlier_version_which_had_fewer_settings_is_not_repeated(run, machine, monkeypatch):
    searched(run, "100ms")
    facts = run.facts("search")
    earlier = {name: value for name, value in facts["settings"].items() if name != "losses"}
    assert len(earlier) == len(facts["settings"]) - 1
    run.finish("search", {**facts, "settings": earlier})
    monkeypatch.setattr("nasdeploy.workflows.search.search", lambda *_: pytest.fail("searched again"))
    recipe = recipe_of(run)
    request = request_search(run, recipe, {"latency": ("100ms",)}, False, QUIET)
    assert whole_way._searched(request, QUIET) == load_result(run.search_result)
    more = recipe.search.model_copy(update={"losses": True})
    asked = replace(request, recipe=recipe.model_copy(update={"search": more}))
    with pytest.raises(pytest.fail.Exception, match="searched again"):
        whole_way._searched(asked, QUIET)


def identities(run: Run, monkeypatch: pytest.MonkeyPatch, *changes: str) -> list[str]:
    """By what the first process and another one of a search tell that they score alike."""
    found: list[str] = []

    class Stopped(Exception):
        pass

    def leads(store: object, world: int, conditions: str) -> None:
        found.append(conditions)
        raise Stopped

    def helps(store: object, rank: int, space: object, open_score: object, conditions: str) -> int:
        found.append(conditions)
        return 0

    monkeypatch.setattr("nasdeploy.workflows.search.leading", leads)
    monkeypatch.setattr("nasdeploy.workflows.search.run_worker", helps)
    for rank in (0, 1):
        monkeypatch.setattr(
            "nasdeploy.workflows.search.met", lambda rank=rank: nullcontext(Meeting(HashStore(), rank, 2))
        )
        with suppress(Stopped):
            search(request_search(run, recipe_of(run, changes), {"macs": ("1",)}, False, QUIET), QUIET)
    return found


def test_processes_that_score_otherwise_are_told_apart(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(run, other_network())
    changes = [(), ("search.score=loss",), ("search.score=both",), ("search.halving=2",)]
    found = [identities(run, monkeypatch, *changed) for changed in changes]
    assert all(first == other and len(first.split()) == 1 for first, other in found)
    assert len({first for first, _ in found}) == len(changes)
