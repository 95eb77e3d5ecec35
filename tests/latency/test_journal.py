"""Measurements that survive a kill."""

from dataclasses import replace

import pytest

from nasdeploy.core.errors import UserError
from nasdeploy.latency.campaign import Journal
from nasdeploy.latency.protocol import Rounds
from tests.latency.tables import CONDITIONS, FINGERPRINT, timing
from tests.wording import assert_stops

BLOCKS = {"a": timing(1e-3), "b": timing(1 / 3)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tables" / "table.journal.jsonl"


def test_continues_with_exactly_what_was_added(path):
    first = Journal(path, CONDITIONS)
    first.add("blocks", BLOCKS)
    first.add("networks", {"{}": timing(2e-3)})
    again = Journal(path, CONDITIONS)
    assert again.outcomes == {"blocks": BLOCKS, "networks": {"{}": timing(2e-3)}} == first.outcomes
    assert again.discarded == []


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_unfinished_line_is_dropped_and_overwritten(path, cut):
    first = Journal(path, CONDITIONS)
    first.add("blocks", BLOCKS)
    first.add("blocks", {"c": timing(3e-3)})
    path.write_bytes(path.read_bytes()[:-cut])
    again = Journal(path, CONDITIONS)
    assert again.outcomes["blocks"] == BLOCKS
    again.add("blocks", {"d": timing(4e-3)})
    assert Journal(path, CONDITIONS).outcomes["blocks"] == BLOCKS | {"d": timing(4e-3)}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"space_digest": "0" * 12}, "space: toy"),
        ({"fingerprint": replace(FINGERPRINT, runtime="onnxruntime 2")}, "runtime: measured with onnxruntime 1"),
        ({"device": CONDITIONS.device.model_copy(update={"name": "other"})}, "device: cpu, now other"),
        ({"protocol": replace(CONDITIONS.protocol, kept=7)}, "protocol, kept: 2, now 7"),
        ({"protocol": replace(CONDITIONS.protocol, blocks=Rounds(9, 9))}, "protocol, blocks: "),
    ],
)
def test_other_conditions_start_anew_and_say_why(path, change, reason):
    Journal(path, CONDITIONS).add("blocks", BLOCKS)
    now = CONDITIONS.model_copy(update=change)
    again = Journal(path, now)
    assert again.outcomes["blocks"] == {}
    assert len(again.discarded) == 1
    assert again.discarded[0].startswith(reason)
    assert Journal(path, now).discarded == []


def test_journal_without_conditions_starts_anew(path):
    path.parent.mkdir()
    path.write_text('{"blocks": {}}\n')
    assert Journal(path, CONDITIONS).discarded == ["it does not say what it is of"]


@pytest.mark.parametrize(
    "line",
    ["rubbish", "[]", '{"blocks": {"a": {"median": -1, "p10": 1, "p90": 1, "n": 1, "noisy": false}}}', '{"x": 1}'],
)
def test_damage_is_named_with_a_way_out(path, line):
    Journal(path, CONDITIONS)
    with path.open("a") as file:
        file.write(line + "\n")
    with assert_stops(UserError, match=r"journal\.jsonl: line 2.*--restart"):
        Journal(path, CONDITIONS)


def test_removed_when_the_table_is_there(path):
    Journal(path, CONDITIONS).remove()
    assert not path.exists()
