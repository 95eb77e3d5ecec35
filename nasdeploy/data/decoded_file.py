"""Decoded pictures one after the other, in memory or in a file. The file is bytes and numbers, never a pickle.

It holds the pixels of all pictures, then a row of `ROW` for each, and at last what it is: a mark with the version of
this form, its key, the number of rows, and their checksum. A file that is anything else is as good as none, and a
picture whose bytes are not those of its checksum is none.
"""

import os
import stat
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nasdeploy.data.images import Indices, Pixels
from nasdeploy.store.files import replacing

ID_BYTES = 24
"""The bytes that tell one picture from all others: of its digest, its width and its height."""

ROW = np.dtype([("id", f"S{ID_BYTES}"), ("offset", "<i8"), ("height", "<i8"), ("width", "<i8"), ("checksum", "<u4")])
"""Where a picture lies; one that could not be read has no height."""

Ids = npt.NDArray[np.bytes_]
Rows = npt.NDArray[np.void]

_END = struct.Struct("<16s32sQI")
_MARK = b"nasdeploy rgb 1\n"
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class DecodedBatch(NamedTuple):
    """Some pictures: their pixels uint8 `[bytes]` one after the other, and height and width of each `[N, 2]`."""

    pixels: Pixels
    sizes: Indices


class DecodedPictures(ABC):
    """RGB pictures by number."""

    @abstractmethod
    def picture(self, number: int) -> Pixels | None:
        """Return one picture `[height, width, 3]`; None if it is not there, or damaged."""


class PicturesInMemory(DecodedPictures):
    """Pictures in the memory of this process.

    Worker processes share it where they are forked, and also where they are not: torch moves what a tensor holds to
    shared memory when it is handed to one.
    """

    def __init__(self, pixels: Tensor, rows: Rows) -> None:
        self._pixels, self.rows = pixels, rows

    @classmethod
    def of(cls, batches: Iterable[DecodedBatch], room: int) -> "PicturesInMemory":
        """Keep pictures in so many bytes; those that have grown since they were counted find none, and are left out."""
        pixels, sizes, end = torch.empty(room, dtype=torch.uint8), [], 0
        for batch in batches:
            fits = end + len(batch.pixels) <= room
            sizes.append(batch.sizes if fits else np.zeros_like(batch.sizes))
            if fits:
                pixels.numpy()[end : end + len(batch.pixels)] = batch.pixels
                end += len(batch.pixels)
        return cls(pixels, _rows(sizes))

    @property
    def pixels(self) -> Pixels:
        """The pixels of all pictures, one after the other `[bytes]`."""
        found: Pixels = self._pixels.numpy()
        return found

    @property
    def is_whole(self) -> bool:
        """Whether all pictures are there."""
        return bool((self.rows["height"] > 0).all())

    def picture(self, number: int) -> Pixels | None:
        """Return one picture; see `DecodedPictures.picture`."""
        row = self.rows[number]
        return _shaped(self.pixels[row["offset"] : row["offset"] + _bytes_of(row)], row) if row["height"] else None


class PictureFile(DecodedPictures):
    """Pictures in a file, read from it each time: what is read often stays in the system's page cache, for everyone."""

    def __init__(self, path: Path, descriptor: int, rows: Rows) -> None:
        self._path, self._descriptor, self.rows = path, descriptor, rows

    @classmethod
    def open(cls, path: Path, key: bytes, ids: Ids) -> "PictureFile | None":
        """Return the file of that key with pictures of these ids, in any order; None if there is none to be trusted.

        That is one of this user's that nobody else may write, in which every size agrees with all others. `ids` are
        sorted, each once.
        """
        try:
            # Not waiting for whoever would write into a pipe of that name.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return None
        rows = _checked(descriptor, key, ids)
        if rows is None:
            os.close(descriptor)
            return None
        return cls(path, descriptor, rows)

    def picture(self, number: int) -> Pixels | None:
        """Return one picture; see `DecodedPictures.picture`."""
        row = self.rows[number]
        try:
            # Unlike a mapped file, one that has become shorter is no signal that ends the process.
            found = os.pread(self._descriptor, _bytes_of(row), int(row["offset"]))
        except OSError:
            return None
        if not found or len(found) != _bytes_of(row) or crc32(found) != row["checksum"]:
            return None
        return _shaped(np.frombuffer(found, dtype=np.uint8), row)

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "rows": self.rows}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        try:
            self._descriptor = os.open(self._path, os.O_RDONLY)
        except OSError:
            self._descriptor = -1

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)


def write_pictures(path: Path, key: bytes, ids: Ids, batches: Iterable[DecodedBatch]) -> None:
    """Write pictures of these ids to a file that appears whole or not at all; raises `UserError` if it cannot."""
    sizes, checksums = [], []
    with replacing(path) as partial, partial.open("xb") as file:
        os.fchmod(file.fileno(), stat.S_IRUSR | stat.S_IWUSR)
        for batch in batches:
            file.write(batch.pixels.data)
            sizes.append(batch.sizes)
            ends = np.cumsum(_areas(batch.sizes))[:-1]
            checksums += [crc32(pixels.data) for pixels in np.split(batch.pixels, ends)]
        rows = _rows(sizes)
        rows["id"], rows["checksum"] = ids, checksums
        table = rows.tobytes()
        file.write(table)
        file.write(_END.pack(_MARK, key, len(rows), crc32(table)))


def _areas(sizes: Indices) -> Indices:
    """Return bytes of pictures of such sizes `[N, 2]`."""
    return sizes[:, 0] * sizes[:, 1] * 3


def _rows(sizes: list[Indices]) -> Rows:
    """Return rows of pictures that lie one after the other, without ids and checksums."""
    found = np.concatenate(sizes)
    rows = np.zeros(len(found), dtype=ROW)
    rows["height"], rows["width"] = found.T
    rows["offset"] = np.cumsum(_areas(found)) - _areas(found)
    return rows


def _bytes_of(row: np.void) -> int:
    return int(row["height"]) * int(row["width"]) * 3


def _shaped(pixels: Pixels, row: np.void) -> Pixels:
    return pixels.reshape(int(row["height"]), int(row["width"]), 3)


def _checked(descriptor: int, key: bytes, ids: Ids) -> Rows | None:
    """Return the rows of an opened file; None if it is not what `PictureFile.open` takes."""
    state, table_bytes = os.fstat(descriptor), len(ids) * ROW.itemsize
    if not stat.S_ISREG(state.st_mode) or state.st_uid != os.geteuid() or state.st_mode & _WRITABLE_BY_OTHERS:
        return None
    table_at = state.st_size - _END.size - table_bytes
    if table_at < 0:
        return None
    try:
        found = os.pread(descriptor, table_bytes + _END.size, table_at)
    except OSError:
        return None
    table, end = found[:table_bytes], found[table_bytes:]
    # The key, not the file, says how much is read: a number in the file that is too large has no effect.
    if end != _END.pack(_MARK, key, len(ids), crc32(table)):
        return None
    rows = np.frombuffer(table, dtype=ROW)
    sizes = np.stack([rows["height"], rows["width"]], axis=1)
    # Sides so short that their product is no overflow.
    if (sizes < 0).any() or (sizes > 1 << 20).any() or not np.array_equal(rows["offset"], _rows([sizes])["offset"]):
        return None
    whole = int(_areas(sizes).sum()) == table_at and np.array_equal(np.sort(rows["id"]), ids)
    return rows if whole else None
