"""Labelled images, in files or in memory, and the sets that a run uses."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from nasdeploy.data.decode import read_rgb

Pixels = npt.NDArray[np.uint8]


class Images(ABC):
    """Labelled images: `images[i]` is an RGB picture and its label (an index into the classes).

    `at_size` is where readers remember the same images at a fetch size, by (shorter side, size).
    """

    def __init__(self, labels: Sequence[int]) -> None:
        self.labels = tuple(labels)
        self.at_size: dict[tuple[int, int], Images] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self.image(index), self.labels[index]

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """One picture, RGB; raises `UnreadableImage` if its file is damaged."""

    @abstractmethod
    def subset(self, indices: Sequence[int]) -> "Images":
        """The images at `indices`, in that order."""

    def path(self, index: int) -> Path | None:
        """The file of one picture; None where it has none of its own."""
        return None


class FileImages(Images):
    """Images in files, decoded each time that they are asked for."""

    def __init__(self, paths: Sequence[Path], labels: Sequence[int]) -> None:
        super().__init__(labels)
        self._paths = tuple(paths)

    def image(self, index: int) -> Image.Image:
        """One picture; see `Images.image`."""
        return read_rgb(self._paths[index])

    def path(self, index: int) -> Path:
        """The file of one picture."""
        return self._paths[index]

    def subset(self, indices: Sequence[int]) -> "FileImages":
        """The images at `indices`, in that order."""
        return FileImages([self._paths[i] for i in indices], [self.labels[i] for i in indices])


class ArrayImages(Images):
    """Images in memory: pixels `[N, H, W]` (grey) or `[N, H, W, 3]`."""

    def __init__(self, pixels: Pixels, labels: Sequence[int]) -> None:
        super().__init__(labels)
        self.pixels = pixels

    def image(self, index: int) -> Image.Image:
        """One picture; see `Images.image`."""
        return Image.fromarray(self.pixels[index]).convert("RGB")

    def subset(self, indices: Sequence[int]) -> "ArrayImages":
        """The images at `indices`, in that order."""
        return ArrayImages(self.pixels[list(indices)], [self.labels[i] for i in indices])


@dataclass(frozen=True)
class ImageSets:
    """The images of a run.

    `train`: what the supernet learns from. `search`: taken from the training images, for the search's accuracy; never
    trained on. `val`: for the curves during training. `test`: for the final figures only. `fingerprint`: equal for
    training images of the same names and classes, before they were split. `notes`: one line each for what a user should
    know about the data, e.g. files that were left out.
    """

    classes: tuple[str, ...]
    train: Images
    search: Images
    val: Images
    test: Images
    fingerprint: str
    notes: tuple[str, ...] = ()
