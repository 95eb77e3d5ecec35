"""A few labelled images of all classes, as a classifier sees them in evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from nasdeploy.core.randomness import generator
from nasdeploy.data.decode import UnreadableImage
from nasdeploy.data.images import Images, Indices
from nasdeploy.data.settings import DataSettings
from nasdeploy.data.transforms import fetch

_MOST = 512
_LONGEST_S = 3.0
_FEWEST = 64
"""Images that are read however long that takes."""


@dataclass(frozen=True)
class Sample:
    """Labelled images; any first part of them has as many of each class as there are."""

    pixels: Tensor
    """uint8 `[N, 3, S, S]`"""
    labels: Tensor
    """`[N]`"""
    names: Sequence[str]
    """Of the images, for messages."""
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> "Sample":
        """The first images."""
        return Sample(self.pixels[:count], self.labels[:count], self.names[:count], self.classes)


def draw_sample(images: Images, classes: tuple[str, ...], settings: DataSettings, seed: int) -> Sample:
    """At most 512 images, read in a few seconds, `settings.size` wide; those that cannot be read are left out.

    Raises `UnreadableImage` if that leaves none.
    """
    began = monotonic()
    pixels: list[Tensor] = []
    indices: list[int] = []
    for index in _turn_by_turn(images.labels, generator(seed, "sample"))[:_MOST].tolist():
        if len(indices) >= _FEWEST and monotonic() - began > _LONGEST_S:
            break
        try:
            pixels.append(F.pil_to_tensor(fetch(images.image(index), settings.shorter_side, settings.size)))
            indices.append(index)
        except UnreadableImage as error:
            # Training says what becomes of it.
            unreadable = error
    if not pixels:
        raise unreadable
    return Sample(
        torch.stack(pixels),
        torch.from_numpy(images.labels[np.asarray(indices, dtype=np.int64)]),
        [name_of(images, index, classes) for index in indices],
        classes,
    )


def name_of(images: Images, index: int, classes: Sequence[str]) -> str:
    """An image in a message: its file, or its number and class."""
    path = images.path(index)
    return str(path) if path is not None else f"image {index} ({classes[int(images.labels[index])]})"


def _turn_by_turn(labels: Indices, rng: np.random.Generator) -> Indices:
    """Indices of all images at random, one of each class before a second of any."""
    drawn = rng.permutation(len(labels))
    by_class = np.argsort(labels[drawn], kind="stable")
    _, sizes = np.unique(labels, return_counts=True)
    turn = np.empty(len(drawn), dtype=np.int64)
    turn[by_class] = np.concatenate([np.arange(size) for size in sizes]) if len(sizes) else 0
    return drawn[np.argsort(turn, kind="stable")]
