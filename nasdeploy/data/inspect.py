"""What an image folder, or one of tar shards, holds: from names, and from the headers of some of its images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np

from nasdeploy.data.decode import UnreadableImage, read_header
from nasdeploy.data.layout import require_utf8
from nasdeploy.data.listing import list_folder
from nasdeploy.data.settings import DatasetKind
from nasdeploy.data.shard_images import ShardImages
from nasdeploy.data.shards import holds_shards, list_shards
from nasdeploy.data.split import require_enough
from nasdeploy.errors import UserError

_LOOKED_AT = 400
T = TypeVar("T")


@dataclass(frozen=True)
class FolderSummary:
    """A folder of images or shards in numbers.

    `images`: count by part. `per_class`: training images by class. `sides`: smallest, median and largest shorter side,
    in pixels, of the images that were looked at.
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
    per_class = {label: len(images) for label, images in train.items()}
    require_enough(per_class, has_test="test" in listing.parts)
    return FolderSummary(
        path=path,
        classes=listing.classes,
        images={part: sum(map(len, classes.values())) for part, classes in listing.parts.items()},
        per_class=per_class,
        sides=sides,
        notes=listing.notes,
    )


def _inspect_shards(path: Path) -> FolderSummary:
    listing = list_shards(path)
    train = listing.parts["train"]
    sides = _spread(path, [_side_in(train, index) for index in _some(range(len(train)))], train.path(0).name)
    counts = np.bincount(train.labels, minlength=len(listing.classes)).tolist()
    per_class = dict(zip(listing.classes, counts, strict=True))
    require_enough(per_class, has_test="test" in listing.parts)
    return FolderSummary(
        path=path,
        classes=listing.classes,
        images={part: len(images) for part, images in listing.parts.items()},
        per_class=per_class,
        sides=sides,
        notes=listing.notes,
        kind="shards",
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
