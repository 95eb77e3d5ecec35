"""Unpacking a run that was packed into one file, perhaps by a stranger, and perhaps to do harm.

What is in it is looked at in a hidden directory, and the run appears when all of it was found to be right: files that
runs have and no others, weights as safetensors, arrays that no pickle is among, databases of tables alone.
"""

import re
import shutil
import sqlite3
import struct
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

from numpy.lib import format as npy

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.core.progress import Progress
from nasdeploy.latency.table import TABLES, LatencyTable
from nasdeploy.recipe import Recipe, recipe_of
from nasdeploy.store.checkpoints import supernet_file, trained_weights
from nasdeploy.store.files import locked_while_written, remove_partial_of, replacing_directory, write_bytes
from nasdeploy.store.networks import FINETUNED, RECORD, WEIGHTS, kept_networks
from nasdeploy.store.packs import Pack, open_pack
from nasdeploy.store.run import RUNS, Run
from nasdeploy.workflows.pack import PACKED_TABLES, RUN

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_OF_A_RUN = re.compile(
    rf"{RUN}/("
    r"manifest\.json|data\.npz|metrics\.jsonl|supernet\.safetensors|predictor\.npz|losses\.json|(pareto|cuts)\.png|"
    r"evaluate\.(json|png)|search\.json|searches/[0-9]{1,9}\.json|search(\.int8\.[a-z0-9_-]+)?\.sqlite|"
    rf"networks/(original|finetuned)-[0-9a-f]{{1,64}}/({re.escape(RECORD)}|{re.escape(WEIGHTS)})|"
    rf"finetune/[0-9a-f]{{1,64}}/({re.escape(FINETUNED)}|manifest\.json|metrics\.jsonl)"
    rf")|{PACKED_TABLES}/[a-z0-9][a-z0-9_.-]*\.json"
)
_UNPACKED = "unpacked"
_KNOWN_TABLES = {"supernet", "evaluations", "parts", "divergences", "measurements"}


class _Wrong(ValueError):
    """What is wrong with a file in a pack; the message completes a sentence."""


@dataclass(frozen=True)
class Unpacked:
    """A run that was unpacked, and what there is to know of it on this machine."""

    run: Run
    recipe: Recipe
    tables: tuple[Path, ...]
    """The latency tables that came with it."""
    kept: tuple[Path, ...]
    """The latency tables that were there already, so that those of the pack were left out."""
    data: str | None
    """Where the run's images lay on the machine that it was packed on; None where it names no place."""

    @property
    def data_found(self) -> bool:
        """Whether there is something at that place on this machine, or none is needed."""
        return self.data is None or Path(self.data).expanduser().exists()

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "run": str(self.run.path),
            "name": self.run.manifest.name,
            "tables": list(map(str, self.tables)),
            "tables_left_out": list(map(str, self.kept)),
            "data": self.data,
            "data_found": self.data_found,
        }


def unpack(path: Path, out: Path | None, progress: Progress) -> Unpacked:
    """Make the run in a pack a run here, by default runs/NAME, with its latency tables where there are none yet.

    Raises `UserError`, and leaves nothing behind, for a file that is no pack, is damaged or holds anything that runs do
    not, and where there is a directory already.
    """
    pack = open_pack(path)
    _require_known(pack)
    directory = RUNS / pack.listing.name if out is None else out
    with locked_while_written(directory):
        if directory.exists() or directory.is_symlink():
            raise UserError(f"{directory}: exists already; give another directory with `out=DIR`, or delete it")
        remove_partial_of(directory)
        with replacing_directory(directory) as partial:
            unpacked = partial / _UNPACKED
            unpacked.mkdir()
            with progress.stage("unpack: reading"):
                pack.extract(unpacked)
            for each in (unpacked / RUN).iterdir():
                each.rename(partial / each.name)
            tables = sorted((unpacked / PACKED_TABLES).glob("*.json"))
            with progress.stage("unpack: checking"):
                _require_whole(pack, partial, tables)
            made, kept = _placed(tables)
            shutil.rmtree(unpacked)
    run = Run.open(directory)
    recipe = recipe_of(run)
    found = Unpacked(run, recipe, made, kept, _place_of(recipe))
    for line in _told(found):
        progress.say(f"unpack: {line}")
    return found


def _require_known(pack: Pack) -> None:
    """Raise `UserError` for a pack that holds what no run does, or lacks what each has."""
    paths = {each.path for each in pack.listing.files}
    strange = sorted(path for path in paths if not _OF_A_RUN.fullmatch(path))
    missing = sorted({f"{RUN}/manifest.json", f"{RUN}/supernet.safetensors"} - paths)
    if strange or missing or not _NAME.fullmatch(pack.listing.name):
        what = f"{strange[0]} is no file of a run" if strange else "the name of its run is none"
        raise UserError(f"{pack.path}: no packed run, {f'{missing[0]} is not in it' if missing else what}; {_ANOTHER}")


_ANOTHER = "pack it again with `nd.pack()`"


def _require_whole(pack: Pack, directory: Path, tables: list[Path]) -> None:
    """Raise `UserError`, which names the pack, for a run or tables that are not what they should be."""
    checks: Mapping[str, Callable[[Path], None]] = {".npz": _require_arrays, ".sqlite": _require_tables}
    try:
        _require_run(directory, pack.listing.name)
        for path in sorted(directory.rglob("*")):
            if path.suffix in checks:
                checks[path.suffix](path)
        for path in tables:
            of = LatencyTable.load(path).conditions
            if path.name != f"{of.device.name}-{of.space}-{of.space_digest}-{of.classes}.json":
                raise _Wrong(f"{path.name} is a table of another device or space")
    except (UserError, _Wrong) as error:
        # What would help where the run lay does not help here.
        what, _, _ = str(error).replace(f"{directory}/", "").partition(";")
        raise UserError(f"{pack.path}: no whole run, {one_line(what)}; {_ANOTHER}") from None


def _require_run(directory: Path, name: str) -> None:
    from nasdeploy.supernet.archives import UnreadableArchive
    from nasdeploy.supernet.tensor_files import read_tensors
    from nasdeploy.supernet.weights import read

    run = Run.open(directory)
    recipe_of(run)
    if run.manifest.name != name:
        raise _Wrong("its manifest and its listing call it by two names")
    if trained_weights(run).path != supernet_file(run):
        raise _Wrong("its manifest knows of no supernet.safetensors")
    if run.manifest.data is not None and not run.split.is_file():
        raise _Wrong("it does not say which of its images it learned from (data.npz)")
    read(supernet_file(run))
    for kept in (*kept_networks(run, "original"), *kept_networks(run, "finetuned")):
        kept.require_whole()
        try:
            read_tensors(kept.weights)
        except UnreadableArchive as error:
            raise _Wrong(f"{kept.weights.relative_to(directory)}: {error}") from None


# -- arrays and databases

_DIRECTORY_END = struct.Struct("<4s4H2LH")
_MOST_ARRAYS = 64


def _require_arrays(path: Path) -> None:
    """Raise `_Wrong` for an archive of NumPy that claims more than it holds, or holds objects."""
    try:
        with path.open("rb") as file:
            _require_short_directory(file, path.stat().st_size)
            with ZipFile(file) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                    raise _Wrong(f"{path.name}: its arrays claim more than is there")
                for entry in archive.infolist():
                    if (
                        entry.compress_type != ZIP_STORED
                        or entry.flag_bits & 1
                        or entry.file_size != entry.compress_size
                    ):
                        raise _Wrong(f"{path.name}: {one_line(entry.filename)} is compressed, as no array is")
                    with archive.open(entry) as array:
                        _require_array(array, entry.file_size)
    except (BadZipFile, EOFError, NotImplementedError, MemoryError, RuntimeError, LookupError, struct.error) as error:
        raise _Wrong(f"{path.name}: damaged ({one_line(error)})") from None
    except ValueError as error:
        raise _Wrong(str(error) if isinstance(error, _Wrong) else f"{path.name}: damaged ({one_line(error)})") from None


def _require_short_directory(file: IO[bytes], size: int) -> None:
    """Raise ValueError unless the archive ends in a directory of few entries, which is all that is read of it before
    these are looked at."""
    file.seek(max(0, size - _DIRECTORY_END.size))
    mark, *_, entries, length, begins, comment = _DIRECTORY_END.unpack(file.read(_DIRECTORY_END.size))
    if mark != b"PK\x05\x06" or comment or entries > _MOST_ARRAYS or begins + length + _DIRECTORY_END.size != size:
        raise ValueError("its directory is not that of an archive of arrays")
    if length > 1 << 16:
        raise ValueError("its directory is too long")


def _require_array(file: IO[bytes], size: int) -> None:
    """Raise ValueError unless a file holds an array of plain numbers, and all of it."""
    version = npy.read_magic(file)
    shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    if dtype.hasobject:
        raise ValueError("it holds objects")
    if file.tell() + prod(shape) * dtype.itemsize != size:
        raise ValueError("an array of it claims what is not there")


def _require_tables(path: Path) -> None:
    """Raise `_Wrong` for a database of anything but the tables of evaluations."""
    try:
        with closing(sqlite3.connect(f"file:{path.resolve()}?mode=ro&immutable=1", uri=True)) as database:
            database.execute("PRAGMA trusted_schema = OFF")
            found = database.execute("SELECT type, tbl_name, sql FROM sqlite_master").fetchmany(100)
    except (sqlite3.DatabaseError, OverflowError, UnicodeError) as error:
        raise _Wrong(f"{path.name}: damaged ({one_line(error)})") from None
    # A virtual table is none of SQLite's own, but what a module makes of it.
    plain = all(
        kind in ("table", "index") and str(sql or "CREATE TABLE").startswith("CREATE TABLE") for kind, _, sql in found
    )
    if not plain or not {name for _, name, _ in found} <= _KNOWN_TABLES:
        raise _Wrong(f"{path.name}: holds more than evaluations")


# -- what it comes to here


def _placed(tables: list[Path]) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Put latency tables where there are none yet; return these, and those that stay as they are."""
    made, kept = [], []
    for table in tables:
        place = TABLES / table.name
        if place.exists():
            kept.append(place)
        else:
            write_bytes(place, table.read_bytes())
            made.append(place)
    return tuple(made), tuple(kept)


def _place_of(recipe: Recipe) -> str | None:
    path = getattr(recipe.data, "path", None)
    return path if isinstance(path, str) else None


def _told(found: Unpacked) -> list[str]:
    """Return what a user should know of a run that comes from another machine."""
    lines = [f"{path} came with it, measured on another machine" for path in found.tables]
    lines += [f"{path} was there already, and stays as it is" for path in found.kept]
    if found.data is None:
        return lines
    if found.data_found:
        return [*lines, f"its images are looked for in {found.data}, as where it was packed"]
    return [*lines, f"its images lay in {found.data}, which is not here; say where they are with `data=DIR`"]
