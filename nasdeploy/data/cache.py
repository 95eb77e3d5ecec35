"""Images that are decoded once: in memory, or in a file that later commands and other processes read too.

What is kept are the whole pictures for random resized crops, and otherwise the pictures after steps 2 and 3 of
`Preprocessing`: all that is the same in every epoch. A set of images is decoded before the first of them is used. What
is read later are the same bytes, so that nothing that is computed from them changes.

A file is known by all that its pixels depend on: the bytes of the images, how they are decoded and fetched, and the
versions of the libraries that do it. Processes that want the same file at the same time wait for the one that writes
it.
"""

import fcntl
import json
import os
import platform
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torchvision
from PIL import Image, features
from PIL import __version__ as pillow_version

from nasdeploy.core.cpus import available_memory
from nasdeploy.core.errors import UserError, one_line
from nasdeploy.core.escaping import escaped
from nasdeploy.data.decode import UnreadableImage
from nasdeploy.data.decoded_file import ID_BYTES, DecodedPictures, Ids, PictureFile, PicturesInMemory, write_pictures
from nasdeploy.data.facts import DIGEST_BYTES
from nasdeploy.data.images import ArrayImages, Images, Indices, as_indices
from nasdeploy.data.loader import FetchedImages, decode
from nasdeploy.data.settings import DOWNLOADS, DataSettings
from nasdeploy.store.files import remove_partial_of

_MOST_BYTES = 512 << 20
"""The most that a set takes without being asked for."""
_PART_OF_FREE = 2
"""The memory and the disk are used up to a half of what is free."""


class DecodedImages(Images):
    """Images that were decoded before; those that were not, or whose bytes are damaged there, are decoded each time.

    `numbers` `[N]` are the pictures' numbers among those decoded.
    """

    def __init__(self, images: Images, pictures: DecodedPictures, numbers: Indices) -> None:
        super().__init__(images.labels)
        self._images, self._pictures, self._numbers = images, pictures, numbers

    def image(self, index: int) -> Image.Image:
        """Return one picture; see `Images.image`."""
        found = self._pictures.picture(int(self._numbers[index]))
        return self._images.image(index) if found is None else Image.fromarray(found)

    def subset(self, indices: Sequence[int]) -> "DecodedImages":
        """Return the images at `indices`, in that order."""
        return DecodedImages(self._images.subset(indices), self._pictures, self._numbers[as_indices(indices)])


def fetched(images: Images, settings: DataSettings, fill: bool = True) -> Images:
    """Return `images` after steps 2 and 3 of `Preprocessing`, decoded once as `settings.cache` says.

    Unless they are to `fill` a cache now, only one that is there is used. Raises `UnreadableImage` if one of them
    cannot be decoded, unless the settings skip those.
    """
    side = settings.size
    if isinstance(images, ArrayImages) and images.pixels.shape[1:3] == (side, side) and settings.shorter_side == side:
        return images
    each_time = FetchedImages(images, settings.shorter_side, side)
    wanted = _Wanted(images, each_time, (settings.shorter_side, side), len(images) * 3 * side * side)
    return _kept(wanted, settings, fill)


def whole(images: Images, settings: DataSettings, fill: bool = True) -> Images:
    """Return `images` as they are, decoded once if `settings.cache` asks for it; see `fetched`."""
    # Unasked it would pay late: a later epoch takes 0.72 of the processors' time, with pictures of a fixed size 0.28,
    # and the first one half as much again (tests/benchmarks/bench_cache.py, 500 x 375 pixels).
    if isinstance(images, ArrayImages) or settings.cache == "auto":
        return images
    known = images.records
    pixels = None if known is None else 3 * int((known["width"] * known["height"]).sum())
    return _kept(_Wanted(images, images, (), pixels), settings, fill)


@dataclass(frozen=True)
class _Wanted:
    """Images, the same as they are wanted, how these are fetched, and the bytes that they take if that is known."""

    images: Images
    source: Images
    fetch: tuple[int, ...]
    size: int | None

    @property
    def ids(self) -> Ids | None:
        """What tells each picture from others `[N]`; None where their bytes were not read."""
        known = self.images.records
        if known is None or not known["read"].all():
            return None
        sides = np.stack([known["width"], known["height"]], axis=1).astype("<i4")
        joined = np.concatenate([known["digest"], sides.view(np.uint8)], axis=1)
        return np.ascontiguousarray(joined).view(f"S{ID_BYTES}").ravel()

    def changed(self, index: int) -> bool:
        """Return whether a file is no longer the one that `ids` tells from others."""
        content, known = self.images.content(index), self.images.records
        if content is None or known is None:
            return False
        digest: bytes = known["digest"][index].tobytes()
        return sha256(content).digest()[:DIGEST_BYTES] != digest

    @property
    def conditions(self) -> bytes:
        """What the pixels of a picture depend on besides its bytes."""
        versions = [pillow_version, features.version_codec("jpg"), features.version_feature("libjpeg_turbo")]
        machine = [platform.machine(), torchvision.__version__]
        return json.dumps([self.fetch, self.images.decoding, *versions, *machine]).encode()


def _kept(wanted: _Wanted, settings: DataSettings, fill: bool) -> Images:
    """Return the images as they were kept before, or are now."""
    name = (settings.cache, *wanted.fetch)
    if name in wanted.images.kept:
        return wanted.images.kept[name]
    found = _decoded(wanted, settings, fill)
    if fill or found is not wanted.source:
        wanted.images.kept[name] = found
    return found


def _decoded(wanted: _Wanted, settings: DataSettings, fill: bool) -> Images:
    if settings.cache == "none" or not len(wanted.images):
        return wanted.source
    if settings.cache != "disk" and wanted.size is not None:
        most = available_memory() // _PART_OF_FREE // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if wanted.size <= (min(most, _MOST_BYTES) if settings.cache == "auto" else most):
            return _in_memory(wanted, wanted.size, settings) if fill else wanted.source
        if settings.cache == "memory" and fill:
            _warn(
                f"data.cache: {_gib(wanted.size)} of pictures are more than this process's share of the free memory, "
                f"{_gib(most)}; they go to the disk if there is room"
            )
    return wanted.source if settings.cache == "auto" else _on_disk(wanted, settings, fill)


def _in_memory(wanted: _Wanted, size: int, settings: DataSettings) -> Images:
    _announce(wanted, size, "memory")
    every = np.arange(len(wanted.images), dtype=np.int64)
    pictures = PicturesInMemory.of(decode(wanted.source, every, settings), size)
    if settings.cache == "auto" and pictures.is_whole:
        # Few images are read faster without processes, which are started anew for each epoch.
        side = settings.size
        return ArrayImages(pictures.pixels.reshape(len(every), side, side, 3), wanted.images.labels)
    return DecodedImages(wanted.source, pictures, every)


def _on_disk(wanted: _Wanted, settings: DataSettings, fill: bool) -> Images:
    """Return the images in a file, which is written if there is none and they are to fill it."""
    ids = wanted.ids
    if ids is None or wanted.size is None:
        if fill:
            _say("the bytes of these images were not read, so that a file of pictures could not be known again; they")
        return wanted.source
    try:
        folder = Path(DOWNLOADS).expanduser() / "pictures"
    except RuntimeError:
        return wanted.source
    each, firsts = np.unique(ids, return_index=True)
    key = sha256(wanted.conditions + b"\0" + each.tobytes()).digest()
    path = folder / f"{key.hex()[:32]}.rgb"
    found = PictureFile.open(path, key, each)
    if found is None and fill:
        _write(wanted, settings, path, key, np.sort(firsts))
        found = PictureFile.open(path, key, each)
    return wanted.source if found is None else DecodedImages(wanted.source, found, _numbers(found.rows["id"], ids))


def _numbers(rows: Ids, ids: Ids) -> Indices:
    """Return where each picture `[N]` stands among the rows of a file, which has all of them."""
    order = np.argsort(rows)
    found: Indices = order[np.searchsorted(rows[order], ids)].astype(np.int64)
    return found


def _write(wanted: _Wanted, settings: DataSettings, path: Path, key: bytes, chosen: Indices) -> None:
    """Write the pictures of the `chosen` images, unless another process just did; where that fails, say so."""
    ids, size = wanted.ids, wanted.size
    assert ids is not None and size is not None
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _turn(path):
            if PictureFile.open(path, key, np.sort(ids[chosen])) is not None:
                return
            remove_partial_of(path)
            free = shutil.disk_usage(path.parent).free
            if size > free // _PART_OF_FREE:
                _say(f"{_gib(size)} of pictures are more than half of the {_gib(free)} free in {path.parent}; they")
                return
            _announce(wanted, size, str(path.parent))
            write_pictures(path, key, ids[chosen], decode(wanted.source, chosen, settings, wanted.changed))
    except UnreadableImage:
        raise
    except (UserError, OSError) as error:
        _say(f"{one_line(error)}; pictures")


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Wait until no other process writes a file; the system ends its turn when a process is killed."""
    with path.with_name(f".{path.name}.lock").open("a") as lock:
        # Where the file system has no locks, several may write at a time: each its own, and the last takes the place.
        with suppress(OSError):
            fcntl.lockf(lock, fcntl.LOCK_EX)
        yield


def _gib(size: int) -> str:
    return f"{size / 2**30:.2g} GiB"


_said: set[str] = set()
"""Lines of this process: each step of a command opens the images again."""


def _say(reason: str) -> None:
    _warn(f"data.cache: {reason} are decoded each time")


def _announce(wanted: _Wanted, size: int, place: str) -> None:
    """Say what takes so long, and so much."""
    if size > _MOST_BYTES:
        _warn(f"data.cache: {len(wanted.images)} pictures are decoded once and kept in {place}, {_gib(size)}")


def _warn(line: str) -> None:
    if line not in _said:
        _said.add(line)
        warnings.warn(escaped(line), stacklevel=2)
