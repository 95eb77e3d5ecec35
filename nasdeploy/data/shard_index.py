"""Where each sample of WebDataset tar shards lies, so that it can be read without what comes before it.

Members of one key that follow each other are a sample, as in the `webdataset` package: a key is a name up to the first
point after its folder, and what follows is the extension. The image is the member with the extension of an image, the
label that in `.cls` (a number or the name of a class) or under `label` in `.json`. Indices are remembered: making one
reads the headers of millions of members.
"""

import json
import re
import tarfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nasdeploy.core.errors import UserError
from nasdeploy.data.classes import NoLabel, label_in
from nasdeploy.data.facts import Arrays, cache_file, load_arrays, store_arrays, text_digest
from nasdeploy.data.images import Indices
from nasdeploy.data.walk import SUFFIXES, grouped, is_hidden, some, suffix_of

LAYOUT = "write shards with KEY.jpg (or another image) and KEY.cls for each sample"

_THREADS = 8
_OF_WEBDATASET = re.compile(r"__[^/]*__($|/)")
"""Names of what is about a shard, and no sample of it."""
_LABELS = ("cls", "json")
"""Extensions of labels, the one that counts first."""
_MOST_LABEL_BYTES = 1 << 20
_LONGEST_NAME = 80
"""Characters of a name in a message."""

Members = dict[str, tarfile.TarInfo]
"""The members of a sample, by extension in lower case."""
_Named = tuple[str, str, tarfile.TarInfo]
"""Key, extension and member."""


@dataclass(frozen=True)
class ShardIndex:
    """The samples of some shards in order, as arrays `[N]`.

    `shard`: number of the sample's shard. `offset` and `size`: of its image in that shard, in bytes. `name`: of the
    image's member, encoded. `text`: number of its label in `texts`, which are sorted. `passed`: members that are
    hidden, a tool's, or of no sample, counted by name.
    """

    shards: tuple[Path, ...]
    shard: npt.NDArray[np.int32]
    offset: Indices
    size: Indices
    name: npt.NDArray[np.bytes_]
    text: Indices
    texts: tuple[str, ...]
    passed: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.shard)

    def path(self, index: int) -> Path:
        """Return a name for a sample's image: the shard and its member."""
        name: bytes = self.name[index]
        return self.shards[int(self.shard[index])] / name.decode(errors="surrogateescape")


class _Sample(NamedTuple):
    offset: int
    size: int
    name: bytes
    label: str


class _Samples(NamedTuple):
    """The samples of a shard, as arrays: objects for each would be many."""

    offset: Indices
    size: Indices
    name: npt.NDArray[np.bytes_]
    label: npt.NDArray[np.str_]
    passed: Counter[str]


def index_of(shards: tuple[Path, ...]) -> ShardIndex:
    """Return the samples of tar files, at least one; raises `UserError` naming a shard that is damaged, or a sample."""
    # Threads, because a cold or networked disk answers many requests at once.
    with ThreadPoolExecutor(_THREADS) as threads:
        found = list(threads.map(_samples_in, shards))
    offset, size, name, label = (np.concatenate(arrays) for arrays in zip(*(part[:4] for part in found), strict=True))
    texts, text = np.unique(label, return_inverse=True)
    return ShardIndex(
        shards,
        shard=np.repeat(np.arange(len(shards), dtype=np.int32), [len(part.offset) for part in found]),
        offset=offset,
        size=size,
        name=name,
        text=text.astype(np.int64),
        texts=tuple(str(label) for label in texts),
        passed=sum((part.passed for part in found), Counter[str]()),
    )


def _samples_in(shard: Path) -> _Samples:
    passed: Counter[str] = Counter()
    try:
        with tarfile.open(shard, "r:") as archive:
            groups = list(_grouped(shard, _named(archive, passed)))
            # Before samples are judged: the last one of a shard that was cut off lacks something.
            _require_end(archive)
            samples = [_sample(shard, archive, key, members) for key, members in groups]
    except OSError as error:
        raise UserError(f"{shard}: cannot be read ({error.strerror or error}); check the file") from None
    # What tarfile raises for damaged headers besides its own errors.
    except (tarfile.TarError, ValueError, ArithmeticError, RecursionError) as error:
        raise UserError(f"{shard}: truncated or damaged ({error}); copy or write this shard anew") from None
    if not samples:
        raise UserError(f"{shard}: holds no samples; {LAYOUT}, or remove this shard")
    offset, size, name, label = zip(*samples, strict=True)
    places, sizes = np.array(offset, dtype=np.int64), np.array(size, dtype=np.int64)
    return _Samples(places, sizes, np.array(name), np.array(label), passed)


def _grouped(shard: Path, named: Iterable[_Named]) -> Iterator[tuple[str, Members]]:
    for key, group in groupby(named, itemgetter(0)):
        members: Members = {}
        for _, extension, member in group:
            if extension in members:
                raise UserError(
                    f"{shard}: sample {_short(key)} has two members .{_cut(extension)}; give each sample a key of its "
                    "own"
                )
            members[extension] = member
        yield key, members


def _named(archive: tarfile.TarFile, passed: Counter[str]) -> Iterator[_Named]:
    """Yield everything that belongs to a sample; what does not is counted."""
    last = -1
    for member in archive:
        if member.size < 0 or member.offset_data <= last:
            raise tarfile.ReadError("a member lies before the one that it follows")
        last = member.offset_data
        if member.isdir() or _OF_WEBDATASET.match(member.name):
            continue
        folder, slash, file = member.name.rpartition("/")
        stem, point, extension = file.partition(".")
        hidden = next((part for part in member.name.split("/") if part.strip(".") and is_hidden(part)), None)
        if hidden is not None:
            passed[grouped(hidden, is_folder=hidden != file)] += 1
        # A sparse member is not stored as it is.
        elif member.isreg() and not member.issparse() and stem and point:
            yield folder + slash + stem, extension.lower(), member
        else:
            passed[file] += 1


def _require_end(archive: tarfile.TarFile) -> None:
    """Raise `ReadError` unless the archive ends with zeros where tarfile stopped: it stops at whatever is no header."""
    assert archive.fileobj is not None
    archive.fileobj.seek(archive.offset)
    if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("the end is missing")


def _sample(shard: Path, archive: tarfile.TarFile, key: str, members: Members) -> _Sample:
    images = [extension for extension in members if f".{extension}" in SUFFIXES]
    if len(images) != 1:
        lacks = "several images" if images else "no image"
        raise UserError(f"{shard}: sample {_short(key)} has {lacks} ({_held(key, members, SUFFIXES)}); {LAYOUT}")
    image = members[images[0]]
    label = _label(shard, archive, key, members)
    if label is None:
        held = _held(key, members, {f".{extension}" for extension in _LABELS})
        raise UserError(f"{shard}: sample {_short(key)} has no label ({held}); {LAYOUT}, or KEY.json with a label")
    return _Sample(image.offset_data, image.size, image.name.encode(errors="surrogateescape"), label)


def _held(key: str, members: Members, wanted: Collection[str]) -> str:
    """Return what a sample holds; where points in names hide what is wanted, the rule that they break."""
    hidden = next((extension for extension in members if "." in extension and suffix_of(extension) in wanted), None)
    if hidden is None:
        return f"it holds {some([f'.{_cut(extension)}' for extension in members])}"
    file = f"{key.rpartition('/')[2]}.{hidden}"
    better = file.replace(".", "_", file.count(".") - 1)
    return (
        f"a key ends at the first point of a name, so that {_short(file)} is its member {_short('.' + hidden)}: write "
        f"names with no point but that before the suffix, such as {_short(better)}"
    )


def _short(name: str) -> str:
    """Return a name in quotes that fits into a message."""
    return repr(_cut(name))


def _cut(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME // 2]}...{name[-_LONGEST_NAME // 2 :]}"


def _label(shard: Path, archive: tarfile.TarFile, key: str, members: Members) -> str | None:
    """Return the label as text; None if there is none."""
    extension = next((extension for extension in _LABELS if extension in members), None)
    if extension is None:
        return None
    file = archive.extractfile(members[extension])
    # More than that is no label, and is refused as one that is cut off.
    content = b"" if file is None else file.read(_MOST_LABEL_BYTES)
    try:
        return label_in(extension, content)
    except NoLabel as reason:
        raise UserError(
            f"{shard}: sample {_short(key)} has no valid label in .{extension} ({reason}); write a number or the name "
            "of a class there, in UTF-8"
        ) from None


_VERSION = 2
_WORTH_KEEPING = 20_000
"""Samples; fewer are found in a second or two."""


def remembered_index(folder: Path, shards: tuple[Path, ...]) -> ShardIndex:
    """Return the index of the shards in a folder, from the cache if none of them has changed in size or time since.

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
    """Return what changes when a shard does."""
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
