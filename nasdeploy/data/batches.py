"""Batches of images, float32 and normalised: for training, evaluation and recalibration, and those kept for scoring."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count as counted
from itertools import islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from nasdeploy.core.randomness import generator, seed_for
from nasdeploy.data.cache import fetched, whole
from nasdeploy.data.images import Images, Indices
from nasdeploy.data.loader import load
from nasdeploy.data.settings import DataSettings
from nasdeploy.data.transforms import normalise, training_transform
from nasdeploy.nn.functional import rescale
from nasdeploy.nn.network import layout_for

Weights = npt.NDArray[np.float64]


def balanced_draws(labels: Indices, rng: np.random.Generator) -> Indices:
    """Draw as many indices as there are `labels` `[N]`, with replacement, in random order: each class is as likely."""
    counts = np.bincount(labels)
    chances = 1.0 / (np.count_nonzero(counts) * counts[labels])
    drawn: Indices = rng.choice(len(labels), size=len(labels), p=chances).astype(np.int64)
    return drawn


def class_weights(labels: Indices, classes: int) -> Weights:
    """Return weights `[classes]` with which the images of each class weigh as much together; 0 for a class without any.

    They are inversely proportional to the number of images, and their mean over all images is 1.
    """
    counts = np.bincount(labels, minlength=classes)
    weights = np.zeros(classes)
    np.divide(len(labels) / np.count_nonzero(counts), counts, out=weights, where=counts > 0)
    return weights


CPU = torch.device("cpu")


def steps_per_epoch(images: Images, batch_size: int) -> int:
    """Return number of batches of an epoch: whole ones only, but one for a set that is smaller than a batch."""
    return max(1, len(images) // batch_size)


@dataclass(frozen=True)
class TrainingBatches:
    """The batches that one process learns from, epoch by epoch.

    `part` is the place of this process among how many that share each batch: (1, 4) gets its images 1, 5, 9, ... The
    order follows from (seed, epoch), an image's augmentation from (seed, epoch, its index), or where classes are
    balanced by sampling, so that an image may come several times, from (seed, epoch, its place in the order). A last
    batch that is not full is left out.
    """

    images: Images
    settings: DataSettings
    batch_size: int
    seed: int
    part: tuple[int, int] = (0, 1)
    device: torch.device = CPU

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield augmented images `[N, 3, size, size]` and labels `[N]` of an epoch, on `device`, from step `start` on.

        Raises `UserError` naming an unreadable image, unless the settings skip those.
        """
        for pixels, labels in self.pixels(epoch, start):
            # As bytes they are a quarter to move.
            moved = pixels.to(self.device, non_blocking=True)
            yield normalise(moved, self.settings.mean, self.settings.std), labels.to(self.device, non_blocking=True)

    def pixels(self, epoch: int, start: int = 0, fill: bool = True) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what `epoch` does before it is moved and normalised: pixels are uint8.

        `fill`: whether images that may be kept decoded are decoded now, all of them.
        """
        order = self.order(epoch)
        seeds = generator(self.seed, "augmentation", epoch).integers(0, 1 << 32, size=len(order), dtype=np.uint32)
        if self.settings.balance != "sampling":
            seeds = seeds[order]
        steps = range(start, steps_per_epoch(self.images, self.batch_size))
        decoded = whole if self.settings.augment.crop == "random-resized" else fetched
        return load(
            decoded(self.images, self.settings, fill),
            [order[self._rows(step)] for step in steps],
            self.settings,
            training_transform(self.settings),
            [seeds[self._rows(step)] for step in steps],
            pinned=self.device.type == "cuda",
        )

    def order(self, epoch: int) -> Indices:
        """Return indices of the images of an epoch, as many as there are, in the order in which they are learned from.

        It is a function of (seed, epoch), so that a restart continues anywhere in it. Every image comes once, unless
        classes are balanced by sampling.
        """
        rng = generator(self.seed, "order", epoch)
        balanced = self.settings.balance == "sampling"
        drawn = balanced_draws(self.images.labels, rng) if balanced else rng.permutation(len(self.images))
        return self.images.readable_order(drawn, rng)

    def names(self, epoch: int, step: int, classes: Sequence[str]) -> list[str]:
        """Return what the images of one batch are called in messages.

        Where unreadable images are skipped, all are read to find out which these are.
        """
        indices = self.order(epoch)[self._rows(step)].tolist()
        skipping = self.settings.on_unreadable == "skip"
        return [
            self.images.name_of(index, classes)
            for index in indices
            if not skipping or self.images.defect(index) is None
        ]

    def _rows(self, step: int) -> slice:
        """Return which rows of an epoch's order are this process's part of a batch."""
        place, parts = self.part
        return slice(step * self.batch_size + place, (step + 1) * self.batch_size, parts)


def evaluation_batches(
    images: Images, settings: DataSettings, batch_size: int, first: int = 0, end: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images in order, as batches `[N, 3, size, size]` and labels `[N]`, nothing random; the last may be short.

    From image `first` up to `end`, by default all. Raises `UserError` naming an unreadable image, unless the settings
    skip those.
    """
    for pixels, labels in evaluation_pixels(images, settings, batch_size, first, end):
        yield normalise(pixels, settings.mean, settings.std), labels


def evaluation_pixels(
    images: Images,
    settings: DataSettings,
    batch_size: int,
    first: int = 0,
    end: int | None = None,
    fill: bool = True,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Return what `evaluation_batches` gives, before it is normalised: pixels are uint8.

    `fill`: whether images that may be kept decoded are decoded now, all of them.
    """
    end = len(images) if end is None else end
    batches = [range(at, min(at + batch_size, end)) for at in range(first, end, batch_size)]
    return load(fetched(images, settings, fill), batches, settings, F.pil_to_tensor)


class CalibrationBatches:
    """Batches `[N, 3, size, size]`, kept as bytes (a quarter of the memory) and normalised when they are iterated."""

    def __init__(self, pixels: Iterable[Tensor], settings: DataSettings) -> None:
        self._pixels, self._settings = tuple(pixels), settings

    def __len__(self) -> int:
        return len(self._pixels)

    @property
    def pixels(self) -> tuple[Tensor, ...]:
        """The batches as they are kept, uint8."""
        return self._pixels

    def __iter__(self) -> Iterator[Tensor]:
        for pixels in self._pixels:
            yield normalise(pixels, self._settings.mean, self._settings.std)

    def to(self, device: torch.device) -> "CalibrationBatches":
        """Return the batches on another device: bytes are moved once, not numbers for every network."""
        return CalibrationBatches((pixels.to(device) for pixels in self._pixels), self._settings)


def calibration_batches(
    images: Images, settings: DataSettings, batch_size: int, count: int, seed: int
) -> CalibrationBatches:
    """Return `count` batches of training images with the training augmentation, the same each time for a seed.

    Their order is that of training, so that statistics of batch normalisation are those that weights were trained
    with; this includes balanced sampling. When the images run out they come again, augmented differently. In memory
    they take count * batch_size * 3 * size^2 bytes.
    """
    drawn = TrainingBatches(images, settings, batch_size, seed_for(seed, "calibration"))
    # Decoding all images to have a few of them would take longer.
    fill = batch_size * count >= len(images)
    epochs = (drawn.pixels(epoch, fill=fill) for epoch in counted())
    batches = (pixels for epoch in epochs for pixels, _ in epoch)
    return CalibrationBatches(islice(batches, count), settings)


_FLOAT_BYTES = 4


class Memory:
    """Bytes that may be taken, once."""

    def __init__(self, free: int) -> None:
        self._free = free

    def take(self, wanted: int) -> bool:
        """Return whether so many were left, which are then taken."""
        if wanted > self._free:
            return False
        self._free -= wanted
        return True


class PreparedBatches:
    """Batches of images, kept as bytes on their device; normalised and rescaled for each side, in that device's layout.

    What was prepared for a side is kept if there is `memory` for it, and made anew each time otherwise.
    """

    def __init__(self, pixels: Iterable[Tensor], settings: DataSettings, memory: Memory) -> None:
        """Pixels are uint8, `[N, 3, size, size]` each."""
        self._pixels, self._settings, self._memory = tuple(pixels), settings, memory
        self._kept: dict[int, tuple[Tensor, ...]] = {}
        self._images = sum(len(batch) for batch in self._pixels)

    def at(self, side: int) -> Iterable[Tensor]:
        """Return the batches `[N, 3, side, side]`, float32; they must not be changed."""
        if side not in self._kept and self._memory.take(self._images * 3 * side * side * _FLOAT_BYTES):
            self._kept[side] = tuple(self._prepared(side))
        return self._kept.get(side) or self._prepared(side)

    def _prepared(self, side: int) -> Iterator[Tensor]:
        for pixels in self._pixels:
            images = rescale(normalise(pixels, self._settings.mean, self._settings.std), side)
            yield images.contiguous(memory_format=layout_for(images.device))


class HeldOutImages:
    """The images that networks are scored on: decoded once and kept if there is memory for it, else read each time."""

    def __init__(
        self, images: Images, settings: DataSettings, batch_size: int, device: torch.device, memory: Memory
    ) -> None:
        self._settings, self._batch_size = settings, batch_size
        self._labels: Sequence[Tensor] = ()
        self._streamed: Images | None = images
        if memory.take(len(images) * 3 * settings.size**2):
            # They are read once, and kept here: only the next command would use them in another place.
            read = evaluation_pixels(images, settings, batch_size, 0, None, settings.cache == "disk")
            batches = [(pixels.to(device), labels) for pixels, labels in read]
            self._labels = [labels for _, labels in batches]
            self._batches = PreparedBatches((pixels for pixels, _ in batches), settings, memory)
            self._streamed = None
        self._count = len(images) if self._streamed else sum(map(len, self._labels))

    def __len__(self) -> int:
        return self._count

    def at(self, side: int, first: int = 0, end: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images `[N, 3, S, S]` and labels `[N]` from image `first` up to `end`.

        S is `side` where they are kept.
        """
        if self._streamed is not None:
            yield from evaluation_batches(self._streamed, self._settings, self._batch_size, first, end)
            return
        at = 0
        for images, labels in zip(self._batches.at(side), self._labels, strict=True):
            part = slice(max(0, first - at), None if end is None else max(0, end - at))
            at += len(labels)
            if len(labels[part]):
                yield images[part], labels[part]
