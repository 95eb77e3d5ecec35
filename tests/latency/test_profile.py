"""Measuring a whole space: complete, resumable, whole or not at all. What time it takes plays no part here."""

import json
import subprocess
import sys
import textwrap
from dataclasses import replace
from time import perf_counter

import pytest
from scipy.stats import spearmanr

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.core.settings import parse
from nasdeploy.latency import profile as module
from nasdeploy.latency.profile import choose_networks, profile
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds
from nasdeploy.latency.runners.open_runner import check_device, fingerprint
from nasdeploy.latency.table import LatencyTable, find_table, table_path
from nasdeploy.latency.time_budget import Pace, TimeBudget, begun_with
from nasdeploy.runtimes.device import Device
from nasdeploy.spaces.mobilenet import MobileNetTable
from nasdeploy.store.files import locked
from tests.latency.tables import SPACE as TOY
from tests.latency.tables import entries
from tests.wording import assert_stops

TABLE = {
    "name": "tiny",
    "resolution": [8, 12],
    "stem": {"width": [8], "stride": 1},
    "stages": [{"width": [8], "depth": [1, 2], "kernel": [3, 5], "expand": [2], "stride": 2, "se": True}],
    "head": {"width": [32], "expand": 2},
}
SPACE = parse(MobileNetTable, TABLE, "table").build(10)
DEVICE = Device(name="here", runtime="onnxruntime")
HASTY = MeasurementProtocol(
    blocks=Rounds(group=4, visits=1),
    networks=Rounds(group=3, visits=1),
    warmup=1,
    discarded=0,
    kept=2,
    shortest_run_s=1e-6,
    shortest_group_s=0,
    retries=0,
    calibration_networks=3,
    held_out_networks=5,
)
QUIET = Progress(quiet=True)


class Stopped(Exception):
    """A kill in the middle."""


@pytest.fixture
def path(tmp_path):
    return table_path(SPACE, DEVICE, tmp_path / "tables")


@pytest.fixture
def opened(monkeypatch):
    """Blocks and networks that models were made of so far; `opened.limit` of them may be, then comes the kill."""

    class Opened(list):
        limit = 10**6

        def watch(self, name):
            original = getattr(module, name)

            def open_(item, *device):
                if len(self) >= self.limit:
                    raise Stopped
                self.append(item)
                return original(item, *device)

            monkeypatch.setattr(module, name, open_)

    monkeypatch.setattr(module, "measure_pace", lambda *_: Pace(opening=1e-2, call=1e-5, per_mac=1e-9))
    found = Opened()
    found.watch("measured_block")
    found.watch("network_model")
    return found


def visible(folder):
    return list(folder.glob("[!.]*"))


def test_table_is_complete_and_the_file_holds_it(path):
    table = profile(SPACE, DEVICE, path, QUIET, protocol=HASTY)
    assert table.entries.keys() == SPACE.distinct_blocks().keys()
    assert [network.role for network in table.networks].count("calibration") == 3
    assert [network.role for network in table.networks].count("held-out") == 5
    for network in table.networks:
        plan = SPACE.plan(SPACE.arch(network.arch))
        assert network.entries == pytest.approx(sum(table.entries[key].undisturbed for key in plan.keys))
        assert network.blocks == len(plan.steps)
    assert find_table(SPACE, DEVICE, path.parent) == table == LatencyTable.load(path)
    assert [file.name for file in visible(path.parent)] == [path.name]


@pytest.mark.parametrize("limit", [0, 6, 13, 17])
def test_killed_measurement_goes_on_where_it_stopped(path, opened, limit):
    blocks = len(SPACE.distinct_blocks())
    opened.limit = limit
    with pytest.raises(Stopped):
        profile(SPACE, DEVICE, path, QUIET, protocol=HASTY)
    assert not path.exists()
    (journal,) = visible(path.parent)
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    kept = {key: timing for line in lines for key, timing in line.get("blocks", {}).items()}
    measured = sum(len(line.get("networks", {})) for line in lines) + len(kept)
    assert measured == limit // 3 * 3 if limit < blocks else measured >= blocks
    opened.clear()
    opened.limit = 10**6
    table = profile(SPACE, DEVICE, path, QUIET, protocol=HASTY)
    assert len(opened) == blocks + 8 - measured
    # Medians may be corrected when all is there; of which group a timing is, is told by its reference.
    assert {key: table.entries[key].reference for key in kept} == {key: one["reference"] for key, one in kept.items()}


def test_measured_space_is_refused_but_can_be_measured_again(path, opened):
    first = profile(SPACE, DEVICE, path, QUIET, protocol=HASTY)
    with assert_stops(UserError, match=r"measured already.*--restart"):
        profile(SPACE, DEVICE, path, QUIET, protocol=HASTY)
    opened.clear()
    assert profile(SPACE, DEVICE, path, QUIET, protocol=HASTY, restart=True) != first
    assert len(opened) == len(SPACE.distinct_blocks()) + 8


def test_old_table_stays_until_the_new_one_is_whole_and_a_stopped_restart_goes_on(path, opened):
    first = profile(SPACE, DEVICE, path, QUIET, protocol=HASTY)
    opened.clear()
    opened.limit = 6
    with pytest.raises(Stopped):
        profile(SPACE, DEVICE, path, QUIET, protocol=HASTY, restart=True)
    assert LatencyTable.load(path) == first
    opened.clear()
    opened.limit = 10**6
    assert profile(SPACE, DEVICE, path, QUIET, protocol=HASTY) != first
    assert len(opened) == len(SPACE.distinct_blocks()) + 8 - 6


def test_measurements_under_other_conditions_are_not_mixed(path, opened, capsys):
    opened.limit = 6
    with pytest.raises(Stopped):
        profile(SPACE, DEVICE, path, QUIET, protocol=HASTY)
    opened.clear()
    opened.limit = 10**6
    profile(SPACE, DEVICE, path, Progress(), protocol=replace(HASTY, kept=3))
    assert len(opened) == len(SPACE.distinct_blocks()) + 8
    assert "Starting anew" in capsys.readouterr().err


def test_two_processes_never_measure_one_table(path, opened):
    with locked(path.with_name(f".{path.name}.lock"), path):
        # POSIX locks are between processes.
        code = textwrap.dedent(f"""
            from pathlib import Path
            from tests.latency.test_profile import DEVICE, HASTY, QUIET, SPACE, profile
            profile(SPACE, DEVICE, Path({str(path)!r}), QUIET, protocol=HASTY, restart=True)
        """)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"{path}: in use by another process" in done.stderr
    assert visible(path.parent) == []


def test_a_refusal_leaves_nothing(path):
    missing = DEVICE.model_copy(update={"runtime": "tensorrt-rtx"})
    with pytest.raises(UserError):
        profile(SPACE, missing, path, QUIET, protocol=HASTY)
    assert not path.parent.exists()


def test_what_a_killed_process_left_half_written_is_removed(path):
    (path.parent / f".{path.name}.x1y2.partial").mkdir(parents=True)
    profile(SPACE, DEVICE, path, QUIET, protocol=HASTY)
    assert list(path.parent.glob("*.partial")) == []


def test_networks_for_calibration_and_for_the_error_share_the_range():
    roles = choose_networks(TOY, entries(), replace(HASTY, calibration_networks=8, held_out_networks=16))
    order = list(roles.values())
    assert (order.count("calibration"), order.count("held-out")) == (8, 16)
    assert order[0] == order[-1] == "calibration"
    for third in range(3):
        assert order[8 * third : 8 * third + 8].count("calibration") in (2, 3)


def test_missing_table_says_how_to_get_it(tmp_path):
    with assert_stops(UserError, match=r"no latency table yet of space tiny with 10 classes.*nasdeploy profile"):
        find_table(SPACE, DEVICE, tmp_path)


def test_table_under_a_wrong_name_is_refused(path):
    profile(SPACE, DEVICE, path, QUIET, protocol=HASTY)
    other = parse(MobileNetTable, {**TABLE, "name": "other"}, "table").build(11)
    path.rename(table_path(other, DEVICE, path.parent))
    with pytest.raises(UserError, match="is of space tiny with 10 classes"):
        find_table(other, DEVICE, path.parent)


@pytest.mark.latency
def test_predicts_the_order_of_networks(path):
    space = parse(MobileNetTable, {**TABLE, "resolution": [8, 16, 32, 64]}, "table").build(10)
    protocol = MeasurementProtocol(
        Rounds(50, 3), Rounds(20, 5), retries=1, calibration_networks=6, held_out_networks=12
    )
    found = []
    # A machine that changes its speed in between is given two more chances.
    while len(found) < 3 and not any(correlation > 0.9 for correlation in found):
        table = profile(space, DEVICE, path.with_name(f"{len(found)}.json"), QUIET, protocol=protocol)
        held_out = [network for network in table.networks if network.role == "held-out"]
        predicted = [table.predict(space.plan(space.arch(network.arch))).seconds for network in held_out]
        found.append(spearmanr(predicted, [network.timing.median for network in held_out]).statistic)
    assert max(found) > 0.9, found


def test_a_budget_chooses_the_protocol_and_a_stopped_measurement_keeps_it(path, opened, monkeypatch):
    opened.limit = 6
    generous = replace(HASTY, networks=Rounds(3, 5))
    # A hundred times as slow as they are, so that what this machine is busy with does not count.
    monkeypatch.setattr(module, "measure_pace", lambda *_: Pace(opening=1.0, call=1e-3, per_mac=1e-7))
    with pytest.raises(Stopped):
        profile(SPACE, DEVICE, path, QUIET, protocol=generous, budget=TimeBudget(55))
    (journal,) = visible(path.parent)
    chosen = begun_with(journal)
    assert 1 <= chosen.networks.visits < 5
    # Now it looks slower, and the same budget would mean less.
    monkeypatch.setattr(module, "measure_pace", lambda *_: Pace(opening=9.0, call=1e-2, per_mac=1e-6))
    opened.limit = 10**6
    table = profile(SPACE, DEVICE, path, QUIET, protocol=generous, budget=TimeBudget(55))
    assert table.conditions.protocol == chosen
    assert len(opened) == len(table.entries) + len(table.networks)


def test_says_how_long_it_will_take(path, capsys):
    profile(SPACE, DEVICE, path, Progress(), protocol=HASTY)
    said = capsys.readouterr().err
    blocks = len(SPACE.distinct_blocks())
    assert f"measuring {blocks} blocks (1 visits each) and 8 whole networks (1 visits each) will take about" in said


def test_every_entry_knows_the_reference_graph_meanwhile(path):
    table = profile(SPACE, DEVICE, path, QUIET, protocol=HASTY)
    assert all(timing.reference for timing in table.entries.values())
    assert all(network.timing.reference for network in table.networks)


def test_a_budget_that_is_not_kept_is_explained_and_one_that_is_is_not(path, opened, capsys, monkeypatch):
    # They look as if they took no time at all, and this is longer ago than the budget.
    monkeypatch.setattr(module, "measure_pace", lambda *_: Pace(opening=0.0, call=0.0, per_mac=1e-15))
    profile(SPACE, DEVICE, path, Progress(), protocol=HASTY, budget=TimeBudget(600))
    assert "budget_min" not in capsys.readouterr().err
    monkeypatch.setattr(module, "within", lambda budget, pace, space, protocol, spent: protocol)
    profile(SPACE, DEVICE, path, Progress(), protocol=HASTY, budget=TimeBudget(6, perf_counter() - 60), restart=True)
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "budget_min" in line)
    assert ", more than `budget_min=0.1`, since the machine is slower than in the trial" in line
    assert line.index("starting and a trial") < line.index("blocks") < line.index("whole networks")


def test_gaps_of_the_device_are_those_of_networks_and_not_of_blocks(path, opened):
    idle = DEVICE.model_copy(update={"idle_ms": 2.0})
    table = profile(SPACE, idle, path, QUIET, protocol=HASTY)
    protocol = table.conditions.protocol
    assert (protocol.blocks.idle_s, protocol.networks.idle_s) == (0.0, 0.002)
    assert table.conditions.fingerprint.idle_ms == 2.0
    here = fingerprint(DEVICE)
    assert check_device(table, DEVICE, strict=False, here=here) == ["idle ms: measured with 2, here 0"]
