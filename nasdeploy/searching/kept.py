"""Timings of finalists, kept while a search goes on, so that one that was killed does not measure them twice."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from nasdeploy.core.arch import Arch
from nasdeploy.core.settings import Settings
from nasdeploy.latency.protocol import Timing
from nasdeploy.latency.table import LatencyTable
from nasdeploy.searching.search import Measure
from nasdeploy.store.files import append_json_line, read_json_lines
from nasdeploy.store.records import parse_record


class _Line(Settings):
    table: str
    arch: str
    timing: Timing


class KeptTimings:
    """A file of JSON lines, one for each measured network; a line counts if it is of one of the present tables.

    They hold for one search: a machine that is slower today than on the day of an earlier one has to be measured today.
    """

    def __init__(self, path: Path, tables: Sequence[LatencyTable]) -> None:
        """Take up what a killed search left at `path`; raises `UserError` if it is damaged."""
        self._path = path
        self._tables = {table.conditions.device.name: _digest(table) for table in tables}
        lines = (parse_record(_Line, line, path, "delete that file") for line in read_json_lines(path))
        self._known = {(line.table, line.arch): line.timing for line in lines}

    def around(self, measure: Measure) -> Measure:
        """`measure`, but for what is known."""

        def measured(device: str, archs: Sequence[Arch]) -> Mapping[Arch, Timing]:
            table = self._tables[device]
            known = {arch: self._known[table, arch.text] for arch in archs if (table, arch.text) in self._known}
            missing = [arch for arch in archs if arch not in known]
            new = measure(device, missing) if missing else {}
            for arch, timing in new.items():
                append_json_line(self._path, {"table": table, "arch": arch.text, "timing": asdict(timing)})
                self._known[table, arch.text] = timing
            return {**known, **new}

        return measured

    def remove(self) -> None:
        """The search has ended, whether or not it found something."""
        self._path.unlink(missing_ok=True)


def _digest(table: LatencyTable) -> str:
    return sha256(table.model_dump_json().encode()).hexdigest()[:12]
