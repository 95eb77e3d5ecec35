"""Indices of shards are remembered: making one reads the headers of millions of members."""

import json
from pathlib import Path

import numpy as np

from nasdeploy.core.errors import UserError
from nasdeploy.data.cache import Arrays, cache_file, load_arrays, store_arrays, text_digest
from nasdeploy.data.shard_index import ShardIndex, index_of

_VERSION = 2
_WORTH_KEEPING = 20_000
"""Samples; fewer are found in a second or two."""


def remembered_index(folder: Path, shards: tuple[Path, ...]) -> ShardIndex:
    """The index of the shards in a folder, from the cache if none of them has changed in size or time since.

    Raises `UserError` like `index_of`. Where the cache cannot be written, it does without.
    """
    place, state = cache_file("shards", folder), _state(shards)
    stored = load_arrays(place)
    if stored is not None and "state" in stored and str(stored["state"]) == state:
        return _index(stored, shards)
    found = index_of(shards)
    if len(found) >= _WORTH_KEEPING:
        store_arrays(place, _arrays(found, state))
    return found


def _state(shards: tuple[Path, ...]) -> str:
    """What changes when a shard does."""
    try:
        found = [(shard.name, shard.stat().st_size, shard.stat().st_mtime_ns) for shard in shards]
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); check the file") from None
    return text_digest(repr((_VERSION, found)))


def _index(stored: Arrays, shards: tuple[Path, ...]) -> ShardIndex:
    return ShardIndex(
        shards,
        shard=stored["shard"],
        offset=stored["offset"],
        size=stored["size"],
        name=stored["name"],
        text=stored["text"],
        texts=tuple(str(text) for text in stored["texts"]),
        passed=json.loads(str(stored["passed"])),
    )


def _arrays(index: ShardIndex, state: str) -> Arrays:
    return {
        "state": np.array(state),
        "shard": index.shard,
        "offset": index.offset,
        "size": index.size,
        "name": index.name,
        "text": index.text,
        "texts": np.array(index.texts),
        "passed": np.array(json.dumps(index.passed)),
    }
