"""Images at the size that they are fetched at, held in memory where that takes little."""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torchvision.transforms.v2 import functional as F

from nasdeploy.data.images import ArrayImages, Images
from nasdeploy.data.loader import load
from nasdeploy.data.settings import DataSettings
from nasdeploy.data.transforms import fetch

_MOST_BYTES = 512 << 20
_READ_AT_ONCE = 64


class FetchedImages(Images):
    """Images resized and cropped each time that they are asked for."""

    def __init__(self, images: Images, shorter_side: int, size: int) -> None:
        super().__init__(images.labels)
        self._images, self._shorter_side, self._size = images, shorter_side, size

    def image(self, index: int) -> Image.Image:
        """One picture, `size` x `size`; see `Images.image`."""
        return fetch(self._images.image(index), self._shorter_side, self._size)

    def subset(self, indices: Sequence[int]) -> "FetchedImages":
        """The images at `indices`, in that order."""
        return FetchedImages(self._images.subset(indices), self._shorter_side, self._size)


def fetched(images: Images, settings: DataSettings) -> Images:
    """`images` after steps 2 and 3 of `Preprocessing`; decoded once, the first time, if they fit in 512 MB."""
    place = (settings.shorter_side, settings.size)
    if place not in images.at_size:
        images.at_size[place] = _at_size(images, settings)
    return images.at_size[place]


def _at_size(images: Images, settings: DataSettings) -> Images:
    side = settings.size
    if isinstance(images, ArrayImages) and images.pixels.shape[1:3] == (side, side) and settings.shorter_side == side:
        return images
    each_time = FetchedImages(images, settings.shorter_side, side)
    if len(images) * 3 * side * side > _MOST_BYTES:
        return each_time
    batches = [range(at, min(at + _READ_AT_ONCE, len(images))) for at in range(0, len(images), _READ_AT_ONCE)]
    read = [pixels.permute(0, 2, 3, 1).numpy() for pixels, _ in load(each_time, batches, settings, F.pil_to_tensor)]
    pixels = np.concatenate(read)
    # Where unreadable images were skipped, positions would shift: then each time they are read anew.
    return ArrayImages(pixels, images.labels) if len(pixels) == len(images) else each_time
