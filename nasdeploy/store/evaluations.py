"""The scores of architectures, in an SQLite database.

Nothing is evaluated twice, and what `put` returned from is still there after a kill or a power cut.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.score import Criterion, Metric, Score, compares
from nasdeploy.core.space import SearchSpace
from nasdeploy.store.files import identity_of

_SCHEMA_VERSION = 2
"""Version 1 had no `parts`, and is read as it is. A table `measurements` of older searches is left alone.

A table `divergences` is there where some search ranked networks by it: those of earlier versions have none.
"""
_PATIENCE_S = 5.0
"""How long to wait for another process that is writing."""


@dataclass(frozen=True)
class Evaluation:
    """The score of one architecture on held-out training samples, after what calibration it needs."""

    digest: str
    arch: str
    """The architecture as JSON text."""
    score: Score
    seconds: float
    """The time that the evaluation took."""
    whole: bool = True
    """Whether it was on all held-out samples; not if it was stopped early, as hopeless."""


def _schema(metric: Metric, compared: bool) -> str:
    """Return the statements that make the tables; the columns of scores have the metric's keys.

    The views hold what counts: everything, or where outputs are to be `compared` with the original's what was.
    """
    divergence, join = "NULL AS divergence", ""
    if compared:
        divergence, join = "divergence", f" JOIN divergences USING (digest, {metric.samples})"
    score = f"{metric.key} REAL NOT NULL, {metric.error_key} REAL NOT NULL, {metric.loss_key} REAL"
    return f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS supernet (digest TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS evaluations (
    digest TEXT PRIMARY KEY, arch TEXT NOT NULL, {score}, {metric.samples} INTEGER NOT NULL, seconds REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS parts (
    digest TEXT, arch TEXT NOT NULL, {score}, {metric.samples} INTEGER, seconds REAL NOT NULL,
    PRIMARY KEY (digest, {metric.samples})
) STRICT;
{_divergences(metric) if compared else ""}
PRAGMA user_version = {_SCHEMA_VERSION};
COMMIT;
CREATE TEMP VIEW wholes AS SELECT evaluations.rowid AS place, evaluations.*, {divergence} FROM evaluations{join};
CREATE TEMP VIEW partials AS SELECT parts.rowid AS place, parts.*, {divergence} FROM parts{join};
"""


def _divergences(metric: Metric) -> str:
    """Return the statement that makes the table of divergences, of evaluations and parts by their samples."""
    return f"""
CREATE TABLE IF NOT EXISTS divergences (
    digest TEXT, {metric.samples} INTEGER, divergence REAL, PRIMARY KEY (digest, {metric.samples})
) STRICT;"""


class Evaluations:
    """The evaluations of one supernet. A context manager; closes the database at the end.

    Scores are ranked by one criterion. By another one the same evaluations count again, but for those without a
    divergence where that is needed.
    """

    def __init__(self, path: Path, supernet: str, metric: Metric, criterion: Criterion = "metric") -> None:
        """Open or create the database; raises `UserError` if it is damaged or of another `supernet` (a digest)."""
        self._path, self.metric, self.criterion = path, metric, criterion
        scores = (metric.key, metric.error_key, metric.loss_key, metric.samples)
        self._columns = ", ".join(("digest", "arch", *scores, "seconds"))
        if not path.parent.is_dir():
            raise UserError(f"{path.parent}: no such directory; give one that is there")
        with self._errors():
            # Statements commit by themselves: each `put` is a transaction.
            self._connection = sqlite3.connect(path, _PATIENCE_S, isolation_level=None)
        try:
            self._prepare(supernet)
            self._identity = identity_of(path)
        except BaseException:
            self.close()
            raise

    def _prepare(self, supernet: str) -> None:
        with self._errors():
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if version not in range(_SCHEMA_VERSION + 1):
                raise UserError(f"{self._path}: of another version of nasdeploy; move it away or use another run")
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.executescript(_schema(self.metric, compares(self.criterion)))
            self._connection.execute(
                "INSERT INTO supernet SELECT ? WHERE NOT EXISTS (SELECT * FROM supernet)", (supernet,)
            )
            found = self._connection.execute("SELECT digest FROM supernet").fetchone()[0]
        if found != supernet:
            raise UserError(
                f"{self._path}: holds evaluations of another supernet ({found}, not {supernet}); "
                "move it away, or search in another run"
            )

    def get(self, digest: str) -> Evaluation | None:
        """Return the evaluation of an architecture, None if there is none."""
        return next(self._select("wholes WHERE digest = ?", digest), None)

    def put(self, evaluation: Evaluation) -> None:
        """Keep an evaluation; of an architecture that was evaluated before, the first one stays.

        One that is not whole counts as an evaluation nowhere but in `parts` and `stopped`.
        """
        if compares(self.criterion):
            self._insert_divergence(evaluation)
        if evaluation.whole:
            self._insert("evaluations", evaluation, "ON CONFLICT (digest) DO NOTHING")
        else:
            self._insert("parts", evaluation, f"ON CONFLICT (digest, {self.metric.samples}) DO NOTHING")

    def parts(self, digest: str) -> list[Evaluation]:
        """Return the evaluations of an architecture on the first of the held-out samples, by their number."""
        return _as_parts(self._select(f"partials WHERE digest = ? ORDER BY {self.metric.samples}", digest))

    def all(self) -> list[Evaluation]:
        """Return all whole evaluations, in the order in which they were made."""
        return list(self._select("wholes ORDER BY place"))

    def stopped(self) -> list[Evaluation]:
        """Return of each architecture that has no whole evaluation the one on the most samples."""
        samples = self.metric.samples
        most = f"SELECT MAX({samples}) FROM partials AS others WHERE others.digest = partials.digest"
        unfinished = f"digest NOT IN (SELECT digest FROM wholes) AND {samples} = ({most})"
        return _as_parts(self._select(f"partials WHERE {unfinished} ORDER BY place"))

    def arch(self, evaluation: Evaluation, space: SearchSpace) -> Arch:
        """Return the architecture of an evaluation; raises `UserError` if it is damaged, or none of `space`."""
        return _arch(space, evaluation.arch, self._path)

    def close(self) -> None:
        """Close the database; everything is on disk already."""
        self._connection.close()

    def __enter__(self) -> "Evaluations":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _select(self, rest: str, *values: str) -> Iterator[Evaluation]:
        with self._errors():
            query = f"SELECT {self._columns}, divergence FROM {rest}"
            found: list[tuple[Any, ...]] = self._connection.execute(query, values).fetchall()
        return (
            Evaluation(digest, arch, self._score(value, error, samples, loss, divergence), seconds)
            for digest, arch, value, error, loss, samples, seconds, divergence in found
        )

    def _score(self, value: float, error: float, samples: int, loss: float | None, divergence: float | None) -> Score:
        compared = _number(divergence) if compares(self.criterion) else None
        return Score(self.metric, value, error, samples, _number(loss), compared, self.criterion)

    def _insert(self, table: str, row: Evaluation, conflict: str) -> None:
        score = row.score
        values = (row.digest, row.arch, score.value, score.error, score.loss, score.samples, row.seconds)
        self._execute(f"INSERT INTO {table} ({self._columns}) VALUES (?, ?, ?, ?, ?, ?, ?) {conflict}", values)

    def _insert_divergence(self, row: Evaluation) -> None:
        """Keep how far outputs are from the original's, before the evaluation that counts with it."""
        values = (row.digest, row.score.samples, row.score.divergence)
        self._execute("INSERT INTO divergences VALUES (?, ?, ?) ON CONFLICT DO NOTHING", values)

    def _execute(self, statement: str, values: tuple[str | float | None, ...]) -> None:
        if identity_of(self._path) != self._identity:
            # SQLite would write into a file that nobody finds again.
            raise UserError(f"{self._path}: was deleted or replaced while it was written; nothing is kept there now")
        with self._errors():
            self._connection.execute(statement, values)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise UserError(f"{self._path}: {error}; check the path, the disk and that no other search runs") from None
        except sqlite3.DatabaseError as error:
            if type(error) is not sqlite3.DatabaseError:
                raise
            raise UserError(f"{self._path}: damaged ({error}); restore it, or move it away and search anew") from None


def openable(path: Path, folder: Path) -> Path:
    """Return a database that can be opened: that at `path`, or a copy where SQLite cannot make its files beside it."""
    if os.access(path.parent, os.W_OK):
        return path
    copy = folder / path.name
    for suffix in ("", "-wal"):
        beside = path.with_name(path.name + suffix)
        if beside.exists() and not copy.with_name(copy.name + suffix).exists():
            copyfile(beside, copy.with_name(copy.name + suffix))
    return copy


def _as_parts(found: Iterable[Evaluation]) -> list[Evaluation]:
    return [replace(one, whole=False) for one in found]


def _number(value: float | None) -> float:
    """Return what SQLite kept as NULL as the NaN that it was."""
    return nan if value is None else value


def known_architectures(path: Path, space: SearchSpace) -> Iterator[Arch]:
    """Yield the architectures that a database holds evaluations of, of whichever supernet; none if there is none.

    Raises `UserError` if it is damaged.
    """
    if not path.exists():
        return
    try:
        with TemporaryDirectory() as folder, closing(sqlite3.connect(openable(path, Path(folder)))) as connection:
            # 0 where a search was killed before it had made the tables.
            made = connection.execute("PRAGMA user_version").fetchone()[0] > 0
            query = "SELECT arch FROM evaluations ORDER BY rowid"
            texts = [str(text) for (text,) in connection.execute(query)] if made else []
    except sqlite3.DatabaseError as error:
        raise UserError(f"{path}: cannot be read ({error}); restore it, or move it away and search anew") from None
    yield from (_arch(space, text, path) for text in texts)


def kept_evaluations(path: Path, metric: Metric) -> list[Evaluation]:
    """Return all whole evaluations in a database, of whichever supernet, oldest first; none if there is no database.

    Nothing is written. Raises `UserError` if it is damaged, or of another metric.
    """
    if not path.exists():
        return []
    value, error, loss, samples = metric.key, metric.error_key, metric.loss_key, metric.samples
    # Whoever made the file may have left out what keeps texts out of columns of numbers.
    typed = f"typeof({value}) = 'real' AND typeof({error}) = 'real' AND typeof({loss}) IN ('real', 'null')"
    typed += f" AND typeof({samples}) = 'integer' AND typeof(seconds) = 'real'"
    columns = f"digest, arch, seconds, {value}, {error}, {loss}, {samples}"
    query = f"SELECT {columns} FROM evaluations WHERE {typed} ORDER BY rowid"
    try:
        with TemporaryDirectory() as folder, closing(sqlite3.connect(openable(path, Path(folder)))) as connection:
            made = connection.execute("PRAGMA user_version").fetchone()[0] > 0
            rows: list[tuple[Any, ...]] = connection.execute(query).fetchall() if made else []
    except sqlite3.DatabaseError as error:
        raise UserError(f"{path}: cannot be read ({error}); restore it, or move it away and search anew") from None
    return [
        Evaluation(str(digest), str(arch), Score(metric, found, spread, count, _number(mean)), took)
        for digest, arch, took, found, spread, mean, count in rows
    ]


def _arch(space: SearchSpace, text: str, path: Path) -> Arch:
    try:
        return space.arch(json.loads(text))
    except (UserError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged ({error}); restore it, or move it away and search anew") from None
