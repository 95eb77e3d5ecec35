"""Images as networks of each resolution take them, made once and kept on the device while they fit into some memory."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from nasdeploy.data.batches import evaluation_batches, evaluation_pixels
from nasdeploy.data.images import Images
from nasdeploy.data.settings import DataSettings
from nasdeploy.data.transforms import normalise
from nasdeploy.nn.device import layout_for
from nasdeploy.nn.rescale import rescale

_FLOAT_BYTES = 4


class Memory:
    """Bytes that may be taken, once."""

    def __init__(self, free: int) -> None:
        self._free = free

    def take(self, wanted: int) -> bool:
        """Whether so many were left, which are then taken."""
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
        """The batches `[N, 3, side, side]`, float32; they must not be changed."""
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
            batches = [
                (pixels.to(device), labels) for pixels, labels in evaluation_pixels(images, settings, batch_size)
            ]
            self._labels = [labels for _, labels in batches]
            self._batches = PreparedBatches((pixels for pixels, _ in batches), settings, memory)
            self._streamed = None
        self._count = len(images) if self._streamed else sum(map(len, self._labels))

    def __len__(self) -> int:
        return self._count

    def at(self, side: int, first: int = 0, end: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Images `[N, 3, S, S]` and labels `[N]` from image `first` up to `end`; S is `side` where they are kept."""
        if self._streamed is not None:
            yield from evaluation_batches(self._streamed, self._settings, self._batch_size, first, end)
            return
        at = 0
        for images, labels in zip(self._batches.at(side), self._labels, strict=True):
            part = slice(max(0, first - at), None if end is None else max(0, end - at))
            at += len(labels)
            if len(labels[part]):
                yield images[part], labels[part]
