"""What is known of image files: a digest of their bytes, and what is wrong with them.

Each file is read once; its facts are kept below the user's cache folder until it changes, which its size and times
tell. The cache only saves time: where it cannot be written, commands do without.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from time import time_ns
from typing import IO, Any, NamedTuple, TypeVar
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np
import numpy.typing as npt

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import counting
from nasdeploy.data.decode import (
    EIGHT_BITS,
    ImageHeader,
    UnreadableImage,
    examined,
    looks_whole,
    too_large,
    undecodable,
)
from nasdeploy.data.images import Indices, Records
from nasdeploy.data.settings import DOWNLOADS, Decoding
from nasdeploy.store.files import replacing

Arrays = Mapping[str, npt.NDArray[Any]]


def cache_file(kind: str, folder: Path) -> Path | None:
    """Return where arrays of a `kind` about a folder of data are kept; None where there is no home."""
    try:
        return Path(DOWNLOADS).expanduser() / kind / f"{text_digest(str(folder.absolute()))}.npz"
    except RuntimeError:
        return None


def text_digest(text: str) -> str:
    """Return a short name for a text."""
    return sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def load_arrays(place: Path | None) -> Arrays | None:
    """Return what was kept there; None if that is nothing, or damaged."""
    if place is None:
        return None
    try:
        with np.load(place, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, ZlibError):
        return None


def store_arrays(place: Path | None, arrays: Arrays) -> None:
    """Keep arrays for the next command; where that cannot be written, it does without."""
    if place is None:
        return
    try:
        with replacing(place) as partial, partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    # A home that cannot be written only costs the time of the next start.
    except UserError:
        return


def texts_as_bytes(texts: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Return texts without NUL one after the other, which takes less than an array of texts as long as the longest."""
    return np.frombuffer("\0".join(texts).encode(errors="surrogateescape"), dtype=np.uint8)


def texts_from_bytes(stored: npt.NDArray[np.uint8], count: int) -> list[str]:
    """Return the texts that `texts_as_bytes` was given; raises ValueError if they are not so many."""
    texts = stored.tobytes().decode(errors="surrogateescape").split("\0") if count else []
    if len(texts) != count:
        raise ValueError(f"{len(texts)} texts, not {count}")
    return texts


DIGEST_BYTES = 16
"""The first bytes of SHA-256: enough to tell any number of images apart."""
_READ_AT_ONCE = 1 << 20

Digests = npt.NDArray[np.uint8]

RECORD = np.dtype([("read", "?"), ("digest", "u1", DIGEST_BYTES), ("width", "i8"), ("height", "i8"), ("depth", "u1")])
"""Facts of one image as they are kept; one more is a field more here and in `Look`. `read`: the digest is known."""


class Look(NamedTuple):
    """What one look into an image file found out."""

    digest: bytes
    """Empty where its bytes were not read."""
    defect: str = ""
    """Why it cannot be read as an image; empty if nothing speaks against it."""
    lasts: bool = True
    """Whether the file would say the same again; not if the disk failed."""
    header: ImageHeader = ImageHeader(0, 0, EIGHT_BITS)
    """What its header says; of nothing where it cannot be read."""


@dataclass(frozen=True)
class Facts:
    """Facts of N image files: `names` below the folder of the data, `sizes` `[N]` in bytes, `records` `[N]` of
    `RECORD`, and defects by place."""

    names: Sequence[str]
    sizes: Indices
    records: Records
    defects: Mapping[int, str]

    def digests(self, places: Indices) -> Digests | None:
        """Return digests of the bytes of some images `[len(places), DIGEST_BYTES]`.

        None unless all of these are known.
        """
        found = self.records[places]
        return found["digest"] if found["read"].all() else None

    def unreadable(self, decoding: Decoding) -> Mapping[int, str]:
        """Return why images cannot be read, by place: their defects, and what `decoding` does not allow."""
        return dict(sorted((unfit(self.records, decoding) | dict(self.defects)).items()))


def unfit(records: Records, decoding: Decoding) -> dict[int, str]:
    """Return why images with these facts `[N]` cannot be decoded so, by place: for their size or depth."""
    found = {}
    large = records["width"] * records["height"] > decoding.max_pixels
    for place in np.flatnonzero(large | (records["depth"] != EIGHT_BITS)).tolist():
        width, height, depth = (int(records[name][place]) for name in ImageHeader._fields)
        problem = too_large(width, height, decoding.max_pixels) or undecodable(depth, decoding)
        if problem:
            found[place] = problem
    return found


def look_at(path: Path, read: bool) -> Look:
    """Return what a file says about itself; its whole content is only read if `read`."""
    try:
        with path.open("rb", buffering=0) as file:
            digest, is_whole = _digest(file) if read else b"", looks_whole(file)
    except OSError as error:
        return Look(b"", error.strerror or str(error), lasts=False)
    try:
        return Look(digest, header=examined(path, is_whole))
    except UnreadableImage as error:
        return Look(digest, error.reason)


def _digest(file: IO[bytes]) -> bytes:
    summed = sha256()
    while content := file.read(_READ_AT_ONCE):
        summed.update(content)
    return summed.digest()[:DIGEST_BYTES]


def records_of(looks: Sequence[Look]) -> Records:
    """Return looks as the records that are kept, `[N]`."""
    records: npt.NDArray[Any] = np.zeros(len(looks), dtype=RECORD)
    records["read"] = [bool(look.digest) for look in looks]
    digests = b"".join(look.digest or bytes(DIGEST_BYTES) for look in looks)
    records["digest"] = np.frombuffer(digests, dtype=np.uint8).reshape(len(looks), DIGEST_BYTES)
    for number, name in enumerate(ImageHeader._fields):
        records[name] = [look.header[number] for look in looks]
    return records


MOST_READ_BYTES = 64 << 30
"""The most bytes of images whose content tells them apart: some minutes of a disk.

Larger sets are known by names and sizes.
"""

_VERSION = 1
_THREADS = 8
_CHUNK = 512
_FEWEST_FILES, _FEWEST_BYTES = 1000, 16 << 20
"""The fewest files and bytes that are worth it: less is read again in a moment, and not kept."""
TOO_NEW_NS = 2_000_000_000
"""A file may change again within the resolution of its time; so what was just written is looked at once more."""

States = npt.NDArray[np.int64]
"""`[N, 4]`: size, times of content and of the file's other properties in ns, number on the disk; -1 where unknown."""
State = tuple[int, int, int, int]
T = TypeVar("T")


def facts_of(root: Path, files: Sequence[Path]) -> Facts:
    """Return facts of `files`, which lie below `root`; only those that are new or changed are read.

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
    """Call `look` for each file, in threads: a cold or networked disk answers many requests at once."""
    chunks = [files[start : start + _CHUNK] for start in range(0, len(files), _CHUNK)]
    work, all_found = counting("files", len(files)), []
    with ThreadPoolExecutor(_THREADS) as threads:
        for found in threads.map(lambda chunk: [look(file) for file in chunk], chunks):
            all_found += found
            work.advance(len(found))
    return all_found


def state_of(file: Path) -> State:
    """Return what changes when a file does, also where it is replaced by another of its size and time."""
    try:
        found = os.stat(file)
    except OSError:
        return (-1, -1, -1, -1)
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino & ((1 << 63) - 1))


def _names(root: Path, files: Sequence[Path]) -> list[str]:
    """Return paths of files relative to the folder `root`, in which they lie."""
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
        """Read what was kept from a file; None if there is none, or one of another version."""
        stored = load_arrays(place)
        if stored is None or "version" not in stored or stored["version"] != _VERSION:
            return None
        if stored["records"].dtype != RECORD:
            return None
        at, reasons = stored["defect_at"].tolist(), stored["defect"].tolist()
        names = texts_from_bytes(stored["names"], len(stored["states"]))
        return cls(names, stored["states"], stored["records"], dict(zip(at, reasons, strict=True)))

    def arrays(self) -> Arrays:
        """Return arrays for a file that `load` reads."""
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
        """Return records and defects of the files of such names and states, and which of them are known `[N]`."""
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
        """Return where each name stands here `[N]`, -1 where it does not."""
        if names == self.names:
            return np.arange(len(names), dtype=np.int64)
        places = {name: place for place, name in enumerate(self.names)}
        return np.array([places.get(name, -1) for name in names], dtype=np.int64)
