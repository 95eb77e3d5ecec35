"""Indices of shards are remembered: making one reads the headers of millions of members."""

from hashlib import sha256
from pathlib import Path
from zipfile import BadZipFile
from zlib import error as ZlibError

import numpy as np

from nasdeploy.data.settings import DOWNLOADS
from nasdeploy.data.shard_index import ShardIndex, index_of
from nasdeploy.errors import UserError
from nasdeploy.store.files import replacing

_VERSION = 1
_WORTH_KEEPING = 20_000
"""Samples; fewer are found in a second or two."""


def remembered_index(folder: Path, shards: tuple[Path, ...]) -> ShardIndex:
    """The index of the shards in a folder, from the cache if none of them has changed in size or time since.

    Raises `UserError` like `index_of`. Where the cache cannot be written, it does without.
    """
    place = Path(DOWNLOADS).expanduser() / "shards" / f"{_digest(str(folder.absolute()))}.npz"
    state = _state(shards)
    found = _stored(place, state, shards)
    if found is None:
        found = index_of(shards)
        if len(found) >= _WORTH_KEEPING:
            _store(place, state, found)
    return found


def _digest(text: str) -> str:
    return sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def _state(shards: tuple[Path, ...]) -> str:
    """What changes when a shard does."""
    try:
        found = [(shard.name, shard.stat().st_size, shard.stat().st_mtime_ns) for shard in shards]
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); check the file") from None
    return _digest(repr((_VERSION, found)))


def _stored(place: Path, state: str, shards: tuple[Path, ...]) -> ShardIndex | None:
    try:
        with np.load(place, allow_pickle=False) as stored:
            if str(stored["state"]) != state:
                return None
            return ShardIndex(
                shards,
                shard=stored["shard"],
                offset=stored["offset"],
                size=stored["size"],
                name=stored["name"],
                text=stored["text"],
                texts=tuple(str(text) for text in stored["texts"]),
            )
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, ZlibError):
        return None


def _store(place: Path, state: str, index: ShardIndex) -> None:
    try:
        with replacing(place) as partial, partial.open("wb") as file:
            np.savez(
                file,
                state=np.array(state),
                shard=index.shard,
                offset=index.offset,
                size=index.size,
                name=index.name,
                text=index.text,
                texts=np.array(index.texts),
            )
    # A home that cannot be written only costs the time of the next start.
    except UserError:
        return
