"""Images in tar shards, read by their offset; their digests and headers, remembered until a shard changes."""

import os
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from threading import Lock
from time import time_ns
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from nasdeploy.core.errors import UserError
from nasdeploy.data.decode import ImageHeader, UnreadableImage, read_header, read_rgb, read_values
from nasdeploy.data.facts import (
    DIGEST_BYTES,
    RECORD,
    TOO_NEW_NS,
    Look,
    State,
    cache_file,
    load_arrays,
    records_of,
    state_of,
    store_arrays,
    texts_as_bytes,
    texts_from_bytes,
)
from nasdeploy.data.images import Images, Indices, Records, as_indices
from nasdeploy.data.inventory import Identities
from nasdeploy.data.settings import Decoding
from nasdeploy.data.shard_index import ShardIndex

WINDOW = 8
"""Shards whose samples are shuffled with each other: about 1 GB of the usual 100 MB, which stay in the page cache."""
_MOST_OPEN = 2 * WINDOW


class _OpenFiles:
    """The files that were read last, kept open; threads read one after the other."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._open: OrderedDict[int, int] = OrderedDict()
        self._lock = Lock()

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Return bytes of one file, fewer at its end."""
        # Otherwise one thread might close what another one is about to read, and a third open its own file in place.
        with self._lock:
            if number not in self._open:
                self._open[number] = os.open(self._paths[number], os.O_RDONLY)
                if len(self._open) > _MOST_OPEN:
                    os.close(self._open.popitem(last=False)[1])
            self._open.move_to_end(number)
            # Leaves no position in the file, which processes that were forked would share.
            return os.pread(self._open[number], size, offset)

    def __reduce__(self) -> tuple[type["_OpenFiles"], tuple[Sequence[Path]]]:
        return _OpenFiles, (self._paths,)

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)


class ShardImages(Images):
    """Images in tar shards, read from where they lie each time that they are asked for.

    `chosen` are places in the index, which all subsets share.
    """

    def __init__(
        self, index: ShardIndex, labels: Indices, chosen: Indices, files: _OpenFiles, decoding: Decoding
    ) -> None:
        super().__init__(labels[chosen])
        self.decoding = decoding
        self._index, self._all_labels, self._chosen, self._files = index, labels, chosen, files

    @classmethod
    def of(cls, index: ShardIndex, labels: Indices, decoding: Decoding = Decoding()) -> "ShardImages":
        """Return all images of an index with their labels `[N]`."""
        return cls(index, labels, np.arange(len(index), dtype=np.int64), _OpenFiles(index.shards), decoding)

    @property
    def index(self) -> ShardIndex:
        """Return where these images lie, and perhaps others."""
        return self._index

    def image(self, index: int) -> Image.Image:
        """Return one picture; see `Images.image`."""
        return read_rgb(self.path(index), self.content(index), self.decoding)

    def header(self, index: int) -> ImageHeader:
        """Return the header of one picture; see `Images.header`."""
        return read_header(self.path(index), self.content(index))

    def depth_and_values(self, index: int) -> tuple[int, npt.NDArray[Any] | None]:
        """Return depth and values of one picture; see `Images.depth_and_values`."""
        return read_values(self.path(index), self.content(index))

    def content(self, index: int) -> bytes:
        """Return the file of one picture; raises `UnreadableImage` if its shard is damaged or gone."""
        place, found = self._chosen[index], self._index
        size = int(found.size[place])
        try:
            content = self._files.read(int(found.shard[place]), int(found.offset[place]), size)
        except OSError as error:
            raise UnreadableImage(self.path(index), error.strerror or str(error)) from None
        if len(content) < size:
            raise UnreadableImage(self.path(index), "its shard has become shorter")
        return content

    def path(self, index: int) -> Path:
        """Return the shard of one picture, and below it the name of its member."""
        return self._index.path(int(self._chosen[index]))

    def names(self) -> bytes:
        """Return names of the shards and members, and which lie in which."""
        shards = "\0".join(shard.name for shard in self._index.shards).encode(errors="surrogateescape")
        inside = self._index.shard[self._chosen].astype("<i4").tobytes()
        return b"\0".join([shards, inside, self._index.name[self._chosen].tobytes()])

    def readable_order(self, drawn: Indices, rng: np.random.Generator) -> Indices:
        """Return images by windows of shards in random order: few files are read from at a time, each once an epoch.

        Inside a window they stay as they were drawn. The order is the same for any number of processes.
        """
        window = rng.permutation(len(self._index.shards)) // WINDOW
        order: Indices = drawn[np.argsort(window[self._index.shard[self._chosen[drawn]]], kind="stable")]
        return order

    @property
    def is_sorted(self) -> bool:
        """Whether `WINDOW` shards in a row hold fewer than two thirds of the classes that they would in any order."""
        first_of_window = self._index.shard[self._chosen] // WINDOW * (1 + self.labels.max())
        mixed = np.random.default_rng(0).permutation(self.labels)
        found, expected = (len(np.unique(first_of_window + labels)) for labels in (self.labels, mixed))
        return 3 * found < 2 * expected

    def subset(self, indices: Sequence[int]) -> "ShardImages":
        """Return the images at `indices`, in that order."""
        chosen = self._chosen[as_indices(indices)]
        found = ShardImages(self._index, self._all_labels, chosen, self._files, self.decoding)
        found.records = self.records_at(indices)
        return found


_VERSION = 2
_THREADS = 8
_FEWEST_IMAGES, _FEWEST_BYTES = 1000, 16 << 20
"""The fewest images and bytes that are worth it: less is read again in a moment, and not kept."""

_Known = tuple[State, Records]
"""What is known of a shard: its state, and the facts of its images."""


def shard_identities(folder: Path, index: ShardIndex, records: Records | None) -> Identities:
    """Return what tells images in shards of `folder` apart: names of shard and member, and digests where there are
    records."""
    shards = [f"{folder.name}/{shard.name}" for shard in index.shards]
    names = (name.decode(errors="surrogateescape") for name in index.name.tolist())
    paths = [f"{shards[number]}/{name}" for number, name in zip(index.shard.tolist(), names, strict=True)]
    return Identities.named(paths, index.size, None if records is None else records["digest"])


def remembered_records(folder: Path, index: ShardIndex) -> Records:
    """Return facts of each image `[N]` of `RECORD`; only shards in `folder` that are new or changed are read.

    Raises `UserError` for a shard that cannot be read or has become shorter. Where the cache cannot be written, it does
    without.
    """
    place, began = cache_file("shard-images", folder), time_ns()
    kept = _load(place)
    ends = np.searchsorted(index.shard, np.arange(len(index.shards)), side="right").tolist()

    def known_of(number: int) -> _Known:
        state, known = state_of(index.shards[number]), kept.get(index.shards[number].name)
        first = ends[number - 1] if number else 0
        if known is not None and known[0] == state and len(known[1]) == ends[number] - first:
            return known
        return state, _records(index, number, first, ends[number])

    with ThreadPoolExecutor(_THREADS) as threads:
        found = list(threads.map(known_of, range(len(index.shards))))
    named = dict(zip((shard.name for shard in index.shards), found, strict=True))
    changed = any(kept.get(name) is not known for name, known in named.items())
    if changed and (len(index) >= _FEWEST_IMAGES or int(index.size.sum()) >= _FEWEST_BYTES):
        _store(place, {name: each for name, each in named.items() if abs(each[0][1] - began) >= TOO_NEW_NS})
    return np.concatenate([records for _, records in found])


def _records(index: ShardIndex, number: int, first: int, end: int) -> Records:
    """Return the records of the images from `first` to `end`, which lie in shard `number`."""
    shard, looks = index.shards[number], []
    try:
        with shard.open("rb", buffering=0) as file:
            for offset, size in zip(index.offset[first:end].tolist(), index.size[first:end].tolist(), strict=True):
                content = os.pread(file.fileno(), size, offset)
                if len(content) < size:
                    raise UserError(f"{shard}: has become shorter while it was read; copy or write this shard anew")
                looks.append(_look(shard, content))
    except OSError as error:
        raise UserError(f"{shard}: cannot be read ({error.strerror}); check the file") from None
    return records_of(looks)


def _look(shard: Path, content: bytes) -> Look:
    """Look at one image; damaged ones are found when they are decoded."""
    digest = sha256(content).digest()[:DIGEST_BYTES]
    try:
        return Look(digest, header=read_header(shard, content))
    except UnreadableImage:
        return Look(digest)


def _load(place: Path | None) -> dict[str, _Known]:
    stored = load_arrays(place)
    if stored is None or "version" not in stored or stored["version"] != _VERSION:
        return {}
    if stored["records"].dtype != RECORD:
        return {}
    names = texts_from_bytes(stored["names"], len(stored["states"]))
    records = np.split(stored["records"], stored["ends"][:-1])
    return {
        name: (tuple(state), of_shard)
        for name, state, of_shard in zip(names, stored["states"].tolist(), records, strict=True)
    }


def _store(place: Path | None, known: dict[str, _Known]) -> None:
    if not known:
        return
    arrays = {
        "version": np.array(_VERSION),
        "names": texts_as_bytes(list(known)),
        "states": np.array([state for state, _ in known.values()], dtype=np.int64),
        "ends": np.cumsum([len(records) for _, records in known.values()]),
        "records": np.concatenate([records for _, records in known.values()]),
    }
    store_arrays(place, arrays)
