"""What an image folder, or one of tar shards, holds: from names, and from the headers of some of its images.

Of pictures of more than 8 bits also how many of 256 levels are left, and the range of values that keeps all of them. A
camera of 12 bits in files of 16 fills a sixteenth of their range, a thermal one less: of their upper 8 bits, which are
taken unless `data.range` says otherwise, hardly any differ.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import ceil, floor, isqrt
from pathlib import Path
from statistics import median

import numpy as np

from nasdeploy.core.errors import UserError
from nasdeploy.data.decode import COLOUR, EIGHT_BITS, FLOATING, GREY, ImageHeader, UnreadableImage, to_levels
from nasdeploy.data.folder import list_folder, read_folder, stop
from nasdeploy.data.images import FileImages, Images
from nasdeploy.data.inventory import OpenedData, each_once
from nasdeploy.data.layout import require_utf8
from nasdeploy.data.settings import DatasetKind, Decoding, ValueBounds
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


LOOKED_AT = 64
"""Images that are looked at to tell whether a range is needed."""
MEASURED = 1000
"""Images, from all over, that a range is measured on."""

_FEW_LEVELS = 128
_ENDS = (0.1, 99.9)
"""Percentiles of a picture's pixels that its range ends at: sensors have dead pixels."""
_MOST_VALUES = 1 << 18
"""The most values of a picture that are looked at."""
_UPPER_BITS = (0.0, 65536.0)


@dataclass(frozen=True)
class Used:
    """The values that pictures of more than 8 bits use, how many such pictures were looked at, and their depth.

    `depth` is `COLOUR` if any of them has colours, and `FLOATING` if any of the others does.
    """

    bounds: ValueBounds
    pictures: int
    depth: int

    @property
    def shown(self) -> str:
        """The values in words."""
        return f"{self.bounds[0]:.6g} to {self.bounds[1]:.6g}"


def used_range(images: Images, most: int) -> Used | None:
    """Return what pictures of more than 8 bits among at most `most` images, from all over, use.

    None if there are none.
    """
    found = list(_ranges(images, most))
    if not found:
        return None
    depths = {depth for depth, _ in found}
    low, high = min(low for _, (low, _) in found), max(high for _, (_, high) in found)
    return Used((low, high if high > low else low + 1), len(found), max(depths, key=(GREY, FLOATING, COLOUR).index))


def _ranges(images: Images, most: int) -> Iterator[tuple[int, ValueBounds]]:
    for index in np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int).tolist():
        try:
            depth, values = images.depth_and_values(index)
        except UnreadableImage:
            continue
        if depth == EIGHT_BITS or values is None:
            continue
        step = 1 + isqrt(values.size // _MOST_VALUES)
        some = values[::step, ::step]
        finite = some[np.isfinite(some)]
        if finite.size:
            low, high = np.percentile(finite, _ENDS)
            yield depth, (float(floor(low)), float(ceil(high))) if depth != FLOATING else (float(low), float(high))


def note_on_levels(used: Used | None, bounds: ValueBounds | None) -> str | None:
    """Return a line about pictures of which `data.range`, here `bounds`, leaves few levels, and what to set.

    Else None.
    """
    if used is None:
        return None
    low, high = used.bounds
    advice = f"set data.range to measured, or to [{low:.6g}, {high:.6g}] (black and white)"
    if used.depth == FLOATING and bounds is None:
        return f"pictures of floating-point pixels, from {used.shown}, have no black and white of their own: {advice}"
    black, white = (int(level) for level in to_levels(np.array(used.bounds), bounds))
    levels = white - black + 1
    low_end, high_end = bounds or _UPPER_BITS
    within = (min(high, high_end) - max(low, low_end)) / (high - low)
    if levels >= _FEW_LEVELS and within > 0.5:
        return None
    left = f"of their values, {used.shown}, {levels} of 256 levels are left"
    if used.depth == COLOUR:
        return (
            f"pictures of 16-bit colours: {left}, since Pillow decodes their upper 8 bits alone; save them with 8 "
            "bits, spread over 0 to 255"
        )
    by = "in their upper 8 bits" if bounds is None else f"by data.range {list(bounds)}"
    cut = "" if within > 0.5 else f", and {1 - max(0.0, within):.0%} of the range are cut off"
    return f"pictures of more than 8 bits: {left} {by}{cut}; {advice}"


def measured_range(images: Images) -> Used:
    """Return the range that grey pictures of more than 8 bits use.

    Raises `UserError` if there are none among the images.
    """
    used = used_range(images, MEASURED)
    if used is None:
        raise UserError(
            "data.range is measured, and no training image that was looked at has more than 8 bits; leave it out"
        )
    return used
