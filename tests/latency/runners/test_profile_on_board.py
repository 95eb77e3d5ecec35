"""A whole table, measured on a board over SSH: what is lost is measured again, and nothing else."""

import json

import pytest

from nasdeploy.core.errors import UserError
from nasdeploy.latency import profile as module
from nasdeploy.latency.machine import differences
from nasdeploy.latency.profile import profile
from nasdeploy.latency.runners import ssh
from nasdeploy.latency.table import LatencyTable, table_path
from nasdeploy.latency.time_budget import Pace
from tests.latency.runners.boards import device, until
from tests.latency.runners.test_ssh import kill, sessions
from tests.latency.test_profile import DEVICE, HASTY, QUIET, SPACE

pytestmark = pytest.mark.slow


@pytest.fixture
def path(tmp_path):
    return table_path(SPACE, DEVICE, tmp_path / "tables")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(ssh.SshRunner.__init__, "__defaults__", ((0.05, 0.1, 0.2),))
    monkeypatch.setattr(module, "measure_pace", lambda *_: Pace(opening=1e-2, call=1e-5, per_mac=1e-9))


def journal_of(path):
    return path.with_name(f"{path.stem}.journal.jsonl")


def keys_in(journal, kind):
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    return [key for line in lines for key in line.get(kind, {})]


def test_table_is_like_one_that_is_measured_here(server, path, tmp_path):
    there = profile(SPACE, device(server), path, QUIET, protocol=HASTY)
    here = profile(SPACE, DEVICE, tmp_path / "here.json", QUIET, protocol=HASTY)
    assert there.entries.keys() == here.entries.keys() == SPACE.distinct_blocks().keys()
    assert [network.role for network in there.networks].count("held-out") == 5
    assert len(there.networks) == len(here.networks)
    assert differences(there.conditions.fingerprint, here.conditions.fingerprint) == []
    assert all(timing.n == 2 for timing in there.entries.values())
    assert LatencyTable.load(path) == there
    assert list(path.parent.glob("[!.]*")) == [path]


def watched(monkeypatch, at, act):
    """Keys that models were made for; before that of number `at`, `act` is called once."""
    made = []
    original = module.measured_block

    def measured_block(block):
        made.append(block.key)
        if len(made) == at:
            act()
        return original(block)

    monkeypatch.setattr(module, "measured_block", measured_block)
    return made


@pytest.mark.parametrize("victims", ["program", "connection"])
def test_a_loss_in_the_middle_loses_no_entry_and_doubles_none(server, path, monkeypatch, victims):
    found = {"program": server.programs, "connection": lambda: sessions(server)}[victims]
    journaled = []
    original = module.Campaign._measure

    def measure(self, kind, *rest):
        original(self, kind, *rest)
        journaled.extend(keys_in(journal_of(path), kind))

    monkeypatch.setattr(module.Campaign, "_measure", measure)
    watched(monkeypatch, 7, lambda: kill(found()))
    table = profile(SPACE, device(server), path, QUIET, protocol=HASTY)
    assert table.entries.keys() == SPACE.distinct_blocks().keys()
    assert sorted(key for key in journaled if key in table.entries) == sorted(table.entries)
    assert len(journaled) == len(set(journaled)) == len(table.entries) + len(table.networks)


def test_a_board_that_stays_away_ends_in_one_line_and_the_same_command_goes_on(own_server, path, monkeypatch):
    own_server.start()

    def away():
        pids = sessions(own_server)
        own_server.stop()
        kill(pids)

    board = device(own_server)
    with monkeypatch.context() as first:
        watched(first, 8, away)
        with pytest.raises(UserError, match="what was measured is kept: run the same command again to go on"):
            profile(SPACE, board, path, QUIET, protocol=HASTY)
    kept = keys_in(journal_of(path), "blocks")
    assert 0 < len(kept) < len(SPACE.distinct_blocks())
    own_server.start()
    made = watched(monkeypatch, 0, lambda: None)
    table = profile(SPACE, board, path, QUIET, protocol=HASTY)
    assert table.entries.keys() == SPACE.distinct_blocks().keys()
    assert not set(made[1:]) & set(kept) - {module.reference_block(SPACE).key}
    until(lambda: not list(own_server.tmp.iterdir()))


def test_a_block_that_the_runtime_refuses_is_named_after_all_others_were_measured(server, path, monkeypatch):
    broken = sorted(SPACE.distinct_blocks())[3]
    original = module.block_models

    def block_models(blocks, device):
        makers = original(blocks, device)
        if broken in makers:
            whole = makers[broken]
            makers[broken] = lambda: whole().replace(b"Conv", b"Conw")
        return makers

    monkeypatch.setattr(module, "block_models", block_models)
    with pytest.raises(UserError) as caught:
        profile(SPACE, device(server), path, QUIET, protocol=HASTY)
    assert f"cannot run 1 of {len(SPACE.distinct_blocks())} blocks, the first of them {broken}: " in str(caught.value)
    assert "Conw" in str(caught.value)
    assert sorted(keys_in(journal_of(path), "blocks")) == sorted(SPACE.distinct_blocks())
