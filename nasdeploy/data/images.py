"""Labelled images, in files or in memory, the sets that a run uses, and leaving out those that cannot be read."""

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from nasdeploy.core.errors import UserError
from nasdeploy.core.escaping import escaped
from nasdeploy.data.decode import EIGHT_BITS, ImageHeader, UnreadableImage, read_header, read_rgb, read_values
from nasdeploy.data.settings import DataSettings, Decoding

if TYPE_CHECKING:
    from nasdeploy.data.split import Split

Pixels = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.int64]
Records = npt.NDArray[np.void]


def as_indices(indices: Sequence[int] | Indices) -> Indices:
    """Return indices as an array, of whole numbers also where there are none."""
    return np.asarray(indices, dtype=np.int64)


class Images(ABC):
    """Labelled images: `images[i]` is an RGB picture and its label (an index into the classes).

    `labels` `[N]` are an array, which worker processes share with their parent. `decoding` is how files are decoded.
    `records` `[N]` of `nasdeploy.data.facts.RECORD` are digest and size of each picture where they are known. `kept` is
    where readers remember the same images decoded, by how they are kept and fetched. `unreadable` is how many files of
    the same part were left out when the data was opened.
    """

    def __init__(self, labels: Sequence[int] | Indices) -> None:
        self.labels: Indices = np.asarray(labels, dtype=np.int64)
        self.decoding = Decoding()
        self.records: Records | None = None
        self.kept: dict[tuple[str | int, ...], Images] = {}
        self.unreadable = 0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.image(index), int(self.labels[index])

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """Return one picture, RGB; raises `UnreadableImage` if its file is damaged."""

    @abstractmethod
    def subset(self, indices: Sequence[int]) -> "Images":
        """Return the images at `indices`, in that order."""

    def records_at(self, indices: Sequence[int] | Indices) -> Records | None:
        """Return the records of some images where they are known."""
        return None if self.records is None else self.records[as_indices(indices)]

    def path(self, index: int) -> Path | None:
        """Return the file of one picture; None where it has none of its own."""
        return None

    def content(self, index: int) -> bytes | None:
        """Return the file of one picture; None where it has none. Raises `UnreadableImage` if it cannot be read."""
        return None

    def header(self, index: int) -> ImageHeader:
        """Return size and depth of one picture, without decoding it where it is a file; raises `UnreadableImage`."""
        return ImageHeader(*self.image(index).size, EIGHT_BITS)

    def depth_and_values(self, index: int) -> tuple[int, npt.NDArray[Any] | None]:
        """Return how deep one picture is, and the values of its pixels if that is more than 8 bits.

        See `read_values`.
        """
        return EIGHT_BITS, None

    def name_of(self, index: int, classes: Sequence[str]) -> str:
        """Return how messages name one picture: by its file, or by its number and class."""
        path = self.path(index)
        return str(path) if path is not None else f"image {index} ({classes[int(self.labels[index])]})"

    def defect(self, index: int) -> UnreadableImage | None:
        """Decode one picture, and return why it cannot be read; None if it can."""
        try:
            self.image(index)
        except UnreadableImage as error:
            return error
        return None

    def names(self) -> bytes:
        """Return what tells these images from others with the same labels, wherever they lie; empty if nothing does."""
        return b""

    def readable_order(self, drawn: Indices, rng: np.random.Generator) -> Indices:
        """Return randomly drawn indices in an order that suits the storage and is as random as that allows."""
        return drawn


class FileImages(Images):
    """Images in files, decoded each time that they are asked for."""

    def __init__(self, paths: Sequence[Path], labels: Sequence[int] | Indices, decoding: Decoding = Decoding()) -> None:
        super().__init__(labels)
        self._paths, self.decoding = tuple(paths), decoding

    def image(self, index: int) -> Image.Image:
        """Return one picture; see `Images.image`."""
        return read_rgb(self._paths[index], decoding=self.decoding)

    def content(self, index: int) -> bytes:
        """Return the file of one picture; see `Images.content`."""
        try:
            return self._paths[index].read_bytes()
        except OSError as error:
            raise UnreadableImage(self._paths[index], error.strerror or str(error)) from None

    def header(self, index: int) -> ImageHeader:
        """Return the header of one picture; see `Images.header`."""
        return read_header(self._paths[index])

    def depth_and_values(self, index: int) -> tuple[int, npt.NDArray[Any] | None]:
        """Return depth and values of one picture; see `Images.depth_and_values`."""
        return read_values(self._paths[index])

    def path(self, index: int) -> Path:
        """Return the file of one picture."""
        return self._paths[index]

    def names(self) -> bytes:
        """Return names of the files below the folder that holds all of them, so that the folder may be moved."""
        paths = [str(path) for path in self._paths]
        # What the first and the last in alphabetical order have in common, all have.
        root = len(os.path.commonpath([min(paths), max(paths)])) if paths else 0
        return "\0".join(path[root:] for path in paths).encode(errors="surrogateescape")

    def subset(self, indices: Sequence[int]) -> "FileImages":
        """Return the images at `indices`, in that order."""
        found = FileImages([self._paths[i] for i in indices], self.labels[as_indices(indices)], self.decoding)
        found.records = self.records_at(indices)
        return found


class ArrayImages(Images):
    """Images in memory: pixels `[N, H, W]` (grey) or `[N, H, W, 3]`."""

    def __init__(self, pixels: Pixels, labels: Sequence[int] | Indices) -> None:
        super().__init__(labels)
        self.pixels = pixels

    def image(self, index: int) -> Image.Image:
        """Return one picture; see `Images.image`."""
        return Image.fromarray(self.pixels[index]).convert("RGB")

    def subset(self, indices: Sequence[int]) -> "ArrayImages":
        """Return the images at `indices`, in that order."""
        chosen = as_indices(indices)
        return ArrayImages(self.pixels[chosen], self.labels[chosen])


@dataclass(frozen=True)
class ImageSets:
    """The images of a run.

    `train`: what the supernet learns from. `search`: taken from the training images, for the search's accuracy; never
    trained on. `val`: for the curves during training. `test`: for the final figures only. `fingerprint`: equal for
    training images of the same names and classes, before they were split; runs of earlier versions know no more.
    `split`: what each image of the data is for. `notes`: one line each for what a user should know about the data, e.g.
    files that were left out.
    """

    classes: tuple[str, ...]
    train: Images
    search: Images
    val: Images
    test: Images
    fingerprint: str
    split: "Split"
    notes: tuple[str, ...] = ()


_THREADS = 8

_named: set[Path] = set()
"""Files that this process has warned of: each epoch and each step of a command meets them again."""


@dataclass(frozen=True)
class Readable:
    """Images that can be read, and how many of the same part cannot."""

    images: Images
    unreadable: int


def readable(images: Images, settings: DataSettings) -> Readable:
    """Return the images without those that cannot be read, if the settings skip these; otherwise all of them, unread.

    Each is decoded once to find out. Raises `UserError` if none can be read.
    """
    if settings.on_unreadable == "stop" or isinstance(images, ArrayImages):
        return Readable(images, images.unreadable)
    with ThreadPoolExecutor(_THREADS) as threads:
        defects = list(threads.map(images.defect, range(len(images))))
    for defect in defects:
        if defect is not None:
            warn_of(defect.path, defect.reason)
    places = [place for place, defect in enumerate(defects) if defect is None]
    if not places:
        raise UserError(f"{images.path(0)}: cannot be read, nor can any other image of its part; replace them")
    found = images if len(places) == len(images) else images.subset(places)
    return Readable(found, images.unreadable + len(images) - len(places))


def warn_of(path: Path, reason: str) -> None:
    """Say that an image is left out, unless it was said already."""
    if path not in _named:
        _named.add(path)
        # Whatever shows warnings may hold no names that are not UTF-8.
        warnings.warn(escaped(f"left out: {path} ({reason})"), stacklevel=2)
