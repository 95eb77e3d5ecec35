"""Digests and headers of the images in tar shards, remembered until a shard changes: each is read once."""

import os
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from time import time_ns

import numpy as np

from nasdeploy.core.errors import UserError
from nasdeploy.data.cache import cache_file, load_arrays, store_arrays, texts_as_bytes, texts_from_bytes
from nasdeploy.data.decode import UnreadableImage, read_header
from nasdeploy.data.facts import DIGEST_BYTES, RECORD, Look, Records, records_of
from nasdeploy.data.file_facts import TOO_NEW_NS, State, state_of
from nasdeploy.data.inventory import Identities
from nasdeploy.data.shard_index import ShardIndex

_VERSION = 2
_THREADS = 8
_FEWEST_IMAGES, _FEWEST_BYTES = 1000, 16 << 20
"""Less is read again in a moment, and not kept."""

_Known = tuple[State, Records]
"""What is known of a shard: its state, and the facts of its images."""


def shard_identities(folder: Path, index: ShardIndex, records: Records | None) -> Identities:
    """What tells images in shards of `folder` apart: names of shard and member, and digests where there are records."""
    shards = [f"{folder.name}/{shard.name}" for shard in index.shards]
    names = (name.decode(errors="surrogateescape") for name in index.name.tolist())
    paths = [f"{shards[number]}/{name}" for number, name in zip(index.shard.tolist(), names, strict=True)]
    return Identities.named(paths, index.size, None if records is None else records["digest"])


def remembered_records(folder: Path, index: ShardIndex) -> Records:
    """Facts of each image `[N]` of `RECORD`; only shards in `folder` that are new or changed are read.

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
    """Of the images from `first` to `end`, which lie in shard `number`."""
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
    """At one image; damaged ones are found when they are decoded."""
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
