"""Facts of the image files of a folder, remembered until a file changes: each is read once, and then only asked for
its size and times."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import time_ns
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from nasdeploy.data.cache import Arrays, cache_file, load_arrays, store_arrays, texts_as_bytes, texts_from_bytes
from nasdeploy.data.facts import RECORD, Facts, Look, Records, look_at, records_of
from nasdeploy.data.images import Indices

MOST_READ_BYTES = 64 << 30
"""Of images whose content tells them apart: some minutes of a disk. Larger sets are known by names and sizes."""

_VERSION = 1
_THREADS = 8
_CHUNK = 512
_FEWEST_FILES, _FEWEST_BYTES = 1000, 16 << 20
"""Less is read again in a moment, and not kept."""
TOO_NEW_NS = 2_000_000_000
"""A file may change again within the resolution of its time; so what was just written is looked at once more."""

States = npt.NDArray[np.int64]
"""`[N, 4]`: size, times of content and of the file's other properties in ns, number on the disk; -1 where unknown."""
State = tuple[int, int, int, int]
T = TypeVar("T")


def facts_of(root: Path, files: Sequence[Path]) -> Facts:
    """Facts of `files`, which lie below `root`; only those that are new or changed are read.

    Files that cannot be read have a defect. Where the cache cannot be written, it does without.
    """
    states = np.array(in_threads(state_of, files), dtype=np.int64).reshape(-1, 4)
    read = int(states[:, 0].sum()) <= MOST_READ_BYTES
    place, names = cache_file("images", root), _names(root, files)
    kept = _Kept.load(place) or _Kept.nothing()
    records, defects, known = kept.of(names, states, read)
    unknown = np.flatnonzero(~known).tolist()
    began = time_ns()
    looks = in_threads(lambda file: look_at(file, read), [files[place] for place in unknown])
    records[unknown] = records_of(looks)
    defects |= {place: look.defect for place, look in zip(unknown, looks, strict=True) if look.defect}
    facts = Facts(names, np.maximum(states[:, 0], 0), records, dict(sorted(defects.items())))
    if len(unknown) and (len(files) >= _FEWEST_FILES or states[:, 0].sum() >= _FEWEST_BYTES):
        _forget(states, unknown, looks, began)
        store_arrays(place, _Kept(names, states, records, defects).arrays())
    return facts


def in_threads(look: Callable[[Path], T], files: Sequence[Path]) -> list[T]:
    """`look` at each file, in threads: a cold or networked disk answers many requests at once."""
    chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    with ThreadPoolExecutor(_THREADS) as threads:
        found = threads.map(lambda chunk: [look(file) for file in chunk], chunks)
        return [each for chunk in found for each in chunk]


def state_of(file: Path) -> State:
    """What changes when a file does, also where it is replaced by another of its size and time."""
    try:
        found = os.stat(file)
    except OSError:
        return (-1, -1, -1, -1)
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino & ((1 << 63) - 1))


def _names(root: Path, files: Sequence[Path]) -> list[str]:
    """Paths of files relative to the folder `root`, in which they lie."""
    start = len(str(root / "x")) - 1
    return [str(file)[start:] for file in files]


def _forget(states: States, places: Sequence[int], looks: Sequence[Look], began: int) -> None:
    """Mark those whose look may not hold the next time as unknown."""
    failed = np.array([not look.lasts for look in looks])
    new = np.abs(states[places, 1] - began) < TOO_NEW_NS
    states[np.array(places)[failed | new]] = -1


@dataclass(frozen=True)
class _Kept:
    """What is remembered of some files: their names, states, facts, and defects by place."""

    names: Sequence[str]
    states: States
    records: Records
    defects: dict[int, str]

    @classmethod
    def nothing(cls) -> "_Kept":
        return cls([], np.empty((0, 4), np.int64), np.empty(0, RECORD), {})

    @classmethod
    def load(cls, place: Path | None) -> "_Kept | None":
        """From a file; None if there is none, or one of another version."""
        stored = load_arrays(place)
        if stored is None or "version" not in stored or stored["version"] != _VERSION:
            return None
        if stored["records"].dtype != RECORD:
            return None
        at, reasons = stored["defect_at"].tolist(), stored["defect"].tolist()
        names = texts_from_bytes(stored["names"], len(stored["states"]))
        return cls(names, stored["states"], stored["records"], dict(zip(at, reasons, strict=True)))

    def arrays(self) -> Arrays:
        """For a file that `load` reads."""
        return {
            "version": np.array(_VERSION),
            "names": texts_as_bytes(self.names),
            "states": self.states,
            "records": self.records,
            "defect_at": np.array(list(self.defects), dtype=np.int64),
            "defect": np.array(list(self.defects.values()), dtype=np.str_),
        }

    def of(
        self, names: Sequence[str], states: States, read: bool
    ) -> tuple[Records, dict[int, str], npt.NDArray[np.bool_]]:
        """Records and defects of the files of such names and states, and which of them are known `[N]`."""
        at = self._places(names)
        known = at >= 0
        known[known] = (self.states[at[known]] == states[known]).all(axis=1) & (states[known, 0] >= 0)
        if read:
            known[known] = self.records["read"][at[known]]
        records = np.zeros(len(states), dtype=RECORD)
        records[known] = self.records[at[known]]
        damaged = np.flatnonzero(known & np.isin(at, list(self.defects)))
        return records, {int(place): self.defects[int(at[place])] for place in damaged}, known

    def _places(self, names: Sequence[str]) -> Indices:
        """Where each name stands here `[N]`, -1 where it does not."""
        if names == self.names:
            return np.arange(len(names), dtype=np.int64)
        places = {name: place for place, name in enumerate(self.names)}
        return np.array([places.get(name, -1) for name in names], dtype=np.int64)
