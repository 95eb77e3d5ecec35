"""What an image folder, or one of tar shards, holds: from names, and from the headers of some of its images."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np

from nasdeploy.core.errors import UserError
from nasdeploy.data.decode import COLOUR, ImageHeader, UnreadableImage
from nasdeploy.data.folder import list_folder, read_folder, stop
from nasdeploy.data.images import FileImages, Images
from nasdeploy.data.inventory import OpenedData, each_once
from nasdeploy.data.layout import require_utf8
from nasdeploy.data.levels import LOOKED_AT, note_on_levels, used_range
from nasdeploy.data.settings import DatasetKind, Decoding
from nasdeploy.data.shards import holds_shards, list_shards, read_shards
from nasdeploy.data.split import require_enough

_LOOKED_AT = 400


@dataclass(frozen=True)
class FolderSummary:
    """A folder of images or shards in numbers.

    `images`: count by part, without copies and damaged ones. `per_class`: the same of training images by class.
    `sides`: smallest, median and largest shorter side, in pixels, of the images that were looked at.
    `needs_range`: few levels are left of pictures of more than 8 bits unless a range is set.
    """

    path: Path
    classes: tuple[str, ...]
    images: Mapping[str, int]
    per_class: Mapping[str, int]
    sides: tuple[int, int, int]
    notes: tuple[str, ...]
    kind: DatasetKind = "folder"
    needs_range: bool = False

    @property
    def has_test(self) -> bool:
        """Whether the folder brings its own test images."""
        return "test" in self.images


def inspect_folder(path: Path) -> FolderSummary:
    """Return a summary of the folder at `path`.

    Raises `UserError` if it has neither the form train/CLASS/* nor train/*.tar, or too few images.
    """
    require_utf8(path.absolute())
    return _inspect_shards(path) if holds_shards(path) else _inspect_images(path)


def _inspect_images(path: Path) -> FolderSummary:
    listing = list_folder(path)
    train = listing.parts["train"]
    files = [file for images in train.values() for file in images]
    looked_at = _Pictures.of(path, FileImages(files, [0] * len(files)))
    data, damaged = read_folder(path, listing, looked_at.decoding)
    return _with_damage(_summary(path, data, looked_at, "folder"), damaged)


def _inspect_shards(path: Path) -> FolderSummary:
    listing = list_shards(path)
    looked_at = _Pictures.of(path, listing.parts["train"])
    data, damaged = read_shards(path, listing, looked_at.decoding)
    return _with_damage(_summary(path, data, looked_at, "shards"), damaged)


def _with_damage(summary: FolderSummary, damaged: Sequence[UnreadableImage]) -> FolderSummary:
    return replace(summary, notes=(*summary.notes, *([str(stop(damaged))] if damaged else [])))


def _summary(path: Path, data: OpenedData, looked_at: "_Pictures", kind: DatasetKind) -> FolderSummary:
    """Sum up a folder; counts are those of images that a recipe as `init` writes it uses: each picture once."""
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
        sides=looked_at.sides,
        notes=(*data.notes, *(f"{path}: {line}" for line in lines), *looked_at.notes),
        kind=kind,
        needs_range=looked_at.needs_range,
    )


@dataclass(frozen=True)
class _Pictures:
    """What some training images say: smallest, median and largest shorter side, and whether they need a range."""

    sides: tuple[int, int, int]
    notes: tuple[str, ...]
    needs_range: bool

    @property
    def decoding(self) -> Decoding:
        """Return what a recipe as `init` writes it says of them."""
        return Decoding("measured" if self.needs_range else None)

    @classmethod
    def of(cls, path: Path, images: Images) -> "_Pictures":
        """Look at images in the folder at `path`; raises `UserError` if none can be read."""
        sides = [min(header.width, header.height) for header in _headers(images)]
        if not sides:
            first = images.path(0)
            named = first.name if first else "the first"
            raise UserError(f"{path}/train: none of the images could be read, {named} for one; replace them")
        used = used_range(images, LOOKED_AT)
        note = note_on_levels(used, None)
        needs_range = used is not None and used.depth != COLOUR and note is not None
        return cls((min(sides), round(median(sides)), max(sides)), (note,) if note else (), needs_range)


def _headers(images: Images) -> Iterator[ImageHeader]:
    """Yield what headers of at most `_LOOKED_AT` images say, from everywhere.

    `open_data` complains of unreadable ones.
    """
    for index in range(0, len(images), -(-len(images) // _LOOKED_AT)):
        with suppress(UnreadableImage):
            yield images.header(index)
