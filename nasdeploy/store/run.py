"""A run: the directory that holds everything made from one recipe, and the manifest that says what is finished."""

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import time_ns
from typing import Annotated, Any, Literal, TypedDict, Unpack
from unicodedata import normalize

from pydantic import AfterValidator, Field

from nasdeploy.core.errors import UserError
from nasdeploy.core.settings import Settings
from nasdeploy.store.files import identity_of, locked, remove_partial, writable, write_bytes, write_json
from nasdeploy.store.records import DataFacts, installed_versions, read_record

StepName = Literal["train", "profile", "search", "export"]
Facts = dict[str, Any]
ClassName = Annotated[str, AfterValidator(partial(normalize, "NFC"))]
"""The names in Unicode's composed form, also where an earlier version kept what the file system gave it."""

RUNS = Path("runs")
_MANIFEST = "manifest.json"
_LOCK = ".lock"
_SPLIT = "data.npz"


class Manifest(Settings):
    """What a run is and which steps of it are finished, with their facts (JSON values)."""

    schema_version: Literal[1] = 1
    name: str
    recipe: dict[str, Any]
    space: str
    classes: tuple[ClassName, ...]
    """The names of a network's outputs, where they have any."""
    outputs: int | None = None
    """How many outputs a network has; None where they are the classes."""
    images: str | None = None
    """Fingerprint of the training images; None in runs of earlier versions."""
    data: DataFacts | None = None
    """The facts of the images that stand in data.npz; None in runs of earlier versions, which have no such file."""
    seed: int
    range: tuple[float, float] | None = None
    """Values of black and white that were measured when it was begun; None if its recipe asks for no such thing."""
    versions: dict[str, str]
    created: str
    finished: dict[StepName, Facts] = Field(default_factory=dict)

    @property
    def output_size(self) -> int:
        """How many outputs a network of the run has."""
        return len(self.classes) if self.outputs is None else self.outputs


class RememberedData(TypedDict, total=False):
    """What a run remembers of its data, so that it is told from other data; see `Manifest`."""

    classes: Sequence[str]
    outputs: int | None
    images: str | None
    data: tuple[DataFacts, bytes] | None
    """All images in figures, and the content of the file that says what each is for."""
    range: tuple[float, float] | None


class Run:
    """A run directory. Make one with `create`, `open` or `latest`; write to it only inside `lock`."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        """The directory of the run."""
        self._manifest = manifest
        self._locks = 0
        self._identity: tuple[int, int] | None = None
        """The descriptor of the lock, while this process has it."""

    @classmethod
    def create(
        cls,
        root: Path,
        name: str,
        *,
        recipe: Mapping[str, Any],
        space: str,
        seed: int,
        **remembered: Unpack[RememberedData],
    ) -> "Run":
        """Return a new run in the directory `name` in `root`.

        `recipe` are the plain values that it is begun with, `space` is the digest of the search space, `seed` that of
        all random numbers, and `remembered` says what tells its data from others. Raises `UserError` if there is one of
        that name.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise UserError(
                f"run name '{name}': use letters, digits, '.', '_' and '-', starting with a letter or digit"
            )
        path = root / name
        facts: dict[str, Any] = {**remembered, "classes": tuple(remembered.get("classes", ()))}
        data = facts.pop("data", None)
        manifest = Manifest(
            name=name,
            recipe=dict(recipe),
            space=space,
            seed=seed,
            data=data[0] if data else None,
            versions=installed_versions(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            **facts,
        )
        run = cls(path, manifest)
        with writable(path):
            path.mkdir(parents=True, exist_ok=True)
        with run.lock():
            run._refuse_to_mix()
            # Before the manifest, with which the run begins: killed between the two, the same command begins it anew.
            if data:
                write_bytes(run.split, data[1])
            run._save()
        return run

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Return the run in the directory `path`, now the latest.

        Raises `UserError` if there is none or its manifest is damaged.
        """
        file = path / _MANIFEST
        if not file.is_file():
            raise UserError(
                f"{path}: no run there (no {_MANIFEST}); give the directory of one, such as {RUNS / 'NAME'}"
            )
        run = cls(path, _read(file))
        run._touch()
        return run

    @classmethod
    def latest(cls, root: Path = RUNS) -> "Run":
        """Return the most recently used run in `root`; raises `UserError` if there is none."""
        files = root.glob(f"[!.]*/{_MANIFEST}")
        found = [(file.stat().st_mtime_ns, file.parent.name, file.parent) for file in files]
        if not found:
            raise UserError(f"no run in {root}; start one with `nd.train(RECIPE)`, or give its directory with `run`")
        return cls.open(max(found)[2])

    @property
    def manifest(self) -> Manifest:
        """Return what the run is, as last read or written by this process."""
        return self._manifest

    @property
    def split(self) -> Path:
        """File that says what each image is for; see `nasdeploy.data.split`."""
        return self.path / _SPLIT

    @property
    def metrics(self) -> Path:
        """Training metrics, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def scalars(self) -> Path:
        """Directory of TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def checkpoints(self) -> Path:
        """Directory of training checkpoints."""
        return self.path / "checkpoints"

    @property
    def search_database(self) -> Path:
        """SQLite database of evaluated architectures."""
        return self.path / "search.sqlite"

    @property
    def search_result(self) -> Path:
        """JSON file with the search's winner and Pareto front."""
        return self.path / "search.json"

    @property
    def exports(self) -> Path:
        """Directory with one directory for each exported architecture."""
        return self.path / "export"

    def is_finished(self, step: StepName) -> bool:
        """Return whether `step` of this run was completed: train, profile, search or export."""
        return step in self._manifest.finished

    def facts(self, step: StepName) -> Facts:
        """Return the facts that the finished `step` left; raises `UserError` if it is not finished."""
        if not self.is_finished(step):
            raise UserError(f"{self.path}: `nd.{step}()` has not finished in this run; run it first")
        return self._manifest.finished[step]

    def finish(self, step: StepName, facts: Mapping[str, Any]) -> None:
        """Record `step` as finished, with `facts` that later steps and the user want to know (JSON values)."""
        with self.lock():
            self.require_there()
            current = _read(self.path / _MANIFEST)
            self._manifest = current.model_copy(update={"finished": {**current.finished, step: dict(facts)}})
            self._save()

    @staticmethod
    def discard(path: Path) -> None:
        """Delete the run in the directory `path` and everything in it, if there is one; its manifest may be damaged."""
        if not (path / _MANIFEST).exists():
            return
        # Out of sight in one step: a new run of this name must never find half of the old one's files.
        discarded = path.with_name(f".{path.name}.discarded")
        shutil.rmtree(discarded, ignore_errors=True)
        with locked(path / _LOCK, path), writable(path):
            path.rename(discarded)
            shutil.rmtree(discarded)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the exclusive use of the run, which may be nested; raises `UserError` if another process has it.

        The operating system gives it up when the process ends, however it ends. Holding it, what killed processes
        left half-written is removed.
        """
        if self._locks == 0:
            if not self.path.is_dir():
                raise self._gone()
            with locked(self.path / _LOCK, self.path):
                self._identity = identity_of(self.path / _LOCK)
                remove_partial(self.path)
                yield from self._held()
        else:
            yield from self._held()

    @contextmanager
    def reading(self) -> Iterator[bool]:
        """Hold the use of the run while no other process changes it; yield whether this process may write to it.

        It may not where the file system does not let it, as a medium that is mounted read-only. Nobody else does then
        either, and there is nothing to be locked.
        """
        if os.access(self.path, os.W_OK):
            with self.lock():
                yield True
        else:
            yield False

    def require_there(self) -> None:
        """Raise `UserError` if the run was deleted, or replaced by another, while this process had it locked.

        What is written afterwards would make half a run, or be mixed with another one.
        """
        if self._locks and identity_of(self.path / _LOCK) != self._identity:
            raise self._gone()

    def _gone(self) -> UserError:
        return UserError(
            f"{self.path}: the run was deleted or replaced while it was used; nothing is written there now"
        )

    def _held(self) -> Iterator[None]:
        self._locks += 1
        try:
            yield
        finally:
            self._locks -= 1

    def _refuse_to_mix(self) -> None:
        if (self.path / _MANIFEST).exists():
            raise UserError(
                f"{self.path}: there is a run already; give another directory with `run`, or "
                "`restart=True` to replace it"
            )
        if any(entry.name not in (_LOCK, _SPLIT) for entry in self.path.iterdir()):
            raise UserError(f"{self.path}: holds files but no run; give another directory, or empty that one")

    def _save(self) -> None:
        write_json(self.path / _MANIFEST, self._manifest.model_dump(mode="json"))
        self._touch()

    def _touch(self) -> None:
        """Make this run the latest, as far as the file system allows (a copy may be read-only)."""
        now = time_ns()
        try:
            os.utime(self.path / _MANIFEST, ns=(now, now))
        except OSError:
            return


def _read(file: Path) -> Manifest:
    return read_record(Manifest, file, "restore it, or train anew with `restart=True`")
