"""Images in tar shards, read by their offset."""

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from nasdeploy.data.decode import UnreadableImage, read_header, read_rgb, read_values
from nasdeploy.data.images import Images, Indices, as_indices
from nasdeploy.data.pillow import Header
from nasdeploy.data.settings import Decoding
from nasdeploy.data.shard_index import ShardIndex

WINDOW = 8
"""Shards whose samples are shuffled with each other: about 1 GB of the usual 100 MB, which stay in the page cache."""
_MOST_OPEN = 2 * WINDOW


class _OpenFiles:
    """The files that were read last, kept open."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._open: OrderedDict[int, int] = OrderedDict()

    def read(self, number: int, offset: int, size: int) -> bytes:
        """Bytes of one file, fewer at its end."""
        if number not in self._open:
            self._open[number] = os.open(self._paths[number], os.O_RDONLY)
            if len(self._open) > _MOST_OPEN:
                os.close(self._open.popitem(last=False)[1])
        self._open.move_to_end(number)
        # Leaves no position in the file, which processes that were forked would share.
        return os.pread(self._open[number], size, offset)

    def __getstate__(self) -> dict[str, Any]:
        return {"_paths": self._paths, "_open": OrderedDict()}

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)


class ShardImages(Images):
    """Images in tar shards, read from where they lie each time that they are asked for.

    `chosen` are places in the index, which all subsets share.
    """

    def __init__(
        self, index: ShardIndex, labels: Indices, chosen: Indices, files: _OpenFiles, decoding: Decoding
    ) -> None:
        super().__init__(labels[chosen])
        self._decoding = decoding
        self._index, self._all_labels, self._chosen, self._files = index, labels, chosen, files

    @classmethod
    def of(cls, index: ShardIndex, labels: Indices, decoding: Decoding = Decoding()) -> "ShardImages":
        """All images of an index with their labels `[N]`."""
        return cls(index, labels, np.arange(len(index), dtype=np.int64), _OpenFiles(index.shards), decoding)

    @property
    def index(self) -> ShardIndex:
        """Where these images lie, and perhaps others."""
        return self._index

    def image(self, index: int) -> Image.Image:
        """One picture; see `Images.image`."""
        return read_rgb(self.path(index), self.content(index), self._decoding)

    def header(self, index: int) -> Header:
        """The header of one picture; see `Images.header`."""
        return read_header(self.path(index), self.content(index))

    def depth_and_values(self, index: int) -> tuple[int, npt.NDArray[Any] | None]:
        """Depth and values of one picture; see `Images.depth_and_values`."""
        return read_values(self.path(index), self.content(index))

    def content(self, index: int) -> bytes:
        """The file of one picture; raises `UnreadableImage` if its shard is damaged or gone."""
        place, found = self._chosen[index], self._index
        size = int(found.size[place])
        try:
            content = self._files.read(int(found.shard[place]), int(found.offset[place]), size)
        except OSError as error:
            raise UnreadableImage(self.path(index), error.strerror or str(error)) from None
        if len(content) < size:
            raise UnreadableImage(self.path(index), "its shard has become shorter")
        return content

    def path(self, index: int) -> Path:
        """The shard of one picture, and below it the name of its member."""
        return self._index.path(int(self._chosen[index]))

    def names(self) -> bytes:
        """Names of the shards and members, and which lie in which."""
        shards = "\0".join(shard.name for shard in self._index.shards).encode(errors="surrogateescape")
        inside = self._index.shard[self._chosen].astype("<i4").tobytes()
        return b"\0".join([shards, inside, self._index.name[self._chosen].tobytes()])

    def readable_order(self, drawn: Indices, rng: np.random.Generator) -> Indices:
        """Images by windows of shards in random order: few files are read from at a time, each once an epoch.

        Inside a window they stay as they were drawn. The order is the same for any number of processes.
        """
        window = rng.permutation(len(self._index.shards)) // WINDOW
        order: Indices = drawn[np.argsort(window[self._index.shard[self._chosen[drawn]]], kind="stable")]
        return order

    @property
    def is_sorted(self) -> bool:
        """Whether `WINDOW` shards in a row hold fewer than two thirds of the classes that they would in any order."""
        first_of_window = self._index.shard[self._chosen] // WINDOW * (1 + self.labels.max())
        mixed = np.random.default_rng(0).permutation(self.labels)
        found, expected = (len(np.unique(first_of_window + labels)) for labels in (self.labels, mixed))
        return 3 * found < 2 * expected

    def subset(self, indices: Sequence[int]) -> "ShardImages":
        """The images at `indices`, in that order."""
        return ShardImages(
            self._index, self._all_labels, self._chosen[as_indices(indices)], self._files, self._decoding
        )
