"""What an image folder, or one of tar shards, holds: from names, and from the headers of some of its images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np

from nasdeploy.data.copies import each_once
from nasdeploy.data.decode import UnreadableImage, read_header
from nasdeploy.data.folder import read_folder, stop
from nasdeploy.data.layout import require_utf8
from nasdeploy.data.listing import list_folder
from nasdeploy.data.opened import OpenedData
from nasdeploy.data.settings import DatasetKind, Decoding
from nasdeploy.data.shard_images import ShardImages
from nasdeploy.data.shards import holds_shards, list_shards, read_shards
from nasdeploy.data.split import require_enough
from nasdeploy.errors import UserError

_LOOKED_AT = 400
T = TypeVar("T")


@dataclass(frozen=True)
class FolderSummary:
    """A folder of images or shards in numbers.

    `images`: count by part, without copies and damaged ones. `per_class`: the same of training images by class.
    `sides`: smallest, median and largest shorter side, in pixels, of the images that were looked at.
    """

    path: Path
    classes: tuple[str, ...]
    images: Mapping[str, int]
    per_class: Mapping[str, int]
    sides: tuple[int, int, int]
    notes: tuple[str, ...]
    kind: DatasetKind = "folder"

    @property
    def has_test(self) -> bool:
        """Whether the folder brings its own test images."""
        return "test" in self.images


def inspect_folder(path: Path) -> FolderSummary:
    """A summary of the folder at `path`.

    Raises `UserError` if it has neither the form train/CLASS/* nor train/*.tar, or too few images.
    """
    require_utf8(path.absolute())
    return _inspect_shards(path) if holds_shards(path) else _inspect_images(path)


def _inspect_images(path: Path) -> FolderSummary:
    listing = list_folder(path)
    train = listing.parts["train"]
    files = [file for images in train.values() for file in images]
    sides = _spread(path, [_shorter_side(file) for file in _some(files)], files[0].name)
    data, damaged = read_folder(path, listing, Decoding())
    summary = _summary(path, data, sides, "folder")
    return replace(summary, notes=(*summary.notes, *([str(stop(damaged))] if damaged else [])))


def _inspect_shards(path: Path) -> FolderSummary:
    listing = list_shards(path)
    train = listing.parts["train"]
    sides = _spread(path, [_side_in(train, index) for index in _some(range(len(train)))], train.path(0).name)
    return _summary(path, read_shards(path, listing), sides, "shards")


def _summary(path: Path, data: OpenedData, sides: tuple[int, int, int], kind: DatasetKind) -> FolderSummary:
    """Counts are those of images that a recipe as `init` writes it uses: each picture once."""
    usable, lines = each_once(data)
    images = {}
    for part, of_part in data.parts.items():
        images[part] = int(usable[data.first(part) :][: len(of_part)].sum())
    train = data.parts["train"].labels
    counts = np.bincount(train[usable[: len(train)]], minlength=len(data.classes)).tolist()
    per_class = dict(zip(data.classes, counts, strict=True))
    given = {part: count for part, count in images.items() if count}
    require_enough(per_class, has_test="test" in given)
    return FolderSummary(
        path=path,
        classes=data.classes,
        images=given,
        per_class=per_class,
        sides=sides,
        notes=(*data.notes, *(f"{path}: {line}" for line in lines)),
        kind=kind,
    )


def _some(all_of: Sequence[T]) -> Sequence[T]:
    """At most `_LOOKED_AT`, from everywhere."""
    return all_of[:: -(-len(all_of) // _LOOKED_AT)]


def _spread(path: Path, looked_at: Sequence[int | None], first: str) -> tuple[int, int, int]:
    sides = [side for side in looked_at if side]
    if not sides:
        raise UserError(f"{path}/train: none of the images could be read, {first} for one; replace them")
    return min(sides), round(median(sides)), max(sides)


def _side_in(images: ShardImages, index: int) -> int | None:
    try:
        return _shorter_side(images.path(index), images.content(index))
    except UnreadableImage:
        return None


def _shorter_side(path: Path, content: bytes | None = None) -> int | None:
    """From the header alone; None for an unreadable file, which is for `open_data` to complain about."""
    try:
        header = read_header(path, content)
    except UnreadableImage:
        return None
    return min(header.width, header.height)
