"""Timings of finalists survive a kill, and nothing else."""

import pytest

from nasdeploy.core.errors import UserError
from nasdeploy.searching.finalists import FinalistJournal
from tests.latency.tables import archs, table, timing
from tests.searching.devices import on

TABLES = (table(), on("board", seed=1))
ARCHS = archs()[:4]


class Device:
    def __init__(self) -> None:
        self.measured = []

    def __call__(self, device, wanted):
        self.measured.extend((device, arch) for arch in wanted)
        return {arch: timing(1e-3 * (1 + place)) for place, arch in enumerate(wanted)}


def test_a_second_process_measures_what_is_missing(tmp_path):
    path, first, second = tmp_path / "kept.jsonl", Device(), Device()
    before = FinalistJournal(path, TABLES).around(first)("board", ARCHS[:3])
    found = FinalistJournal(path, TABLES).around(second)("board", ARCHS)
    assert second.measured == [("board", ARCHS[3])]
    assert {arch: found[arch] for arch in ARCHS[:3]} == before


def test_other_devices_and_tables_measured_anew_are_measured(tmp_path):
    path, device = tmp_path / "kept.jsonl", Device()
    FinalistJournal(path, TABLES).around(device)("board", ARCHS)
    FinalistJournal(path, TABLES).around(device)("cpu", ARCHS)
    FinalistJournal(path, (on("board", seed=2),)).around(device)("board", ARCHS)
    assert len(device.measured) == 3 * len(ARCHS)


def test_nothing_is_left_of_a_search_that_ended(tmp_path):
    path, device = tmp_path / "kept.jsonl", Device()
    kept = FinalistJournal(path, TABLES)
    kept.around(device)("cpu", ARCHS)
    kept.remove()
    FinalistJournal(path, TABLES).around(device)("cpu", ARCHS)
    assert len(device.measured) == 2 * len(ARCHS)


def test_a_damaged_file_is_named(tmp_path):
    path = tmp_path / "kept.jsonl"
    path.write_text('{"table": "x"}\n')
    with pytest.raises(UserError, match=r"kept\.jsonl: .*missing.*; delete that file"):
        FinalistJournal(path, TABLES)
