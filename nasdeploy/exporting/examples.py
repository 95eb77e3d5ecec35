"""Training images for quantisation: some that ranges are found on, others that losses are judged by."""

from collections.abc import Iterable, Iterator

import numpy as np

from nasdeploy.data.batches import evaluation_batches
from nasdeploy.data.images import Images, ImageSets, readable
from nasdeploy.data.settings import DataSettings
from nasdeploy.exporting.conversions import Examples
from nasdeploy.nn.rescale import rescale
from nasdeploy.runtimes.runtime import Array

_CALIBRATION = 256
_CALIBRATION_BATCH = 4
"""Small: all activations of a batch are in memory at once."""
_HELD_OUT = 2000
_BATCH = 32


def examples_of(sets: ImageSets, data: DataSettings, side: int) -> Examples:
    """Images of a run for networks of that input side, without augmentation; the test set is not among them."""
    calibration = readable(spread(sets.train, _CALIBRATION), data).images
    held_out = readable(spread(sets.search, _HELD_OUT), data).images

    def images() -> Iterable[Array]:
        return (inputs for inputs, _ in _batches(calibration, data, side, _CALIBRATION_BATCH))

    return Examples(images, len(calibration), lambda: _batches(held_out, data, side, _BATCH))


def spread(images: Images, most: int) -> Images:
    """At most so many images, from all over the set and so of all classes."""
    places = np.linspace(0, len(images) - 1, min(most, len(images))).round().astype(int)
    return images.subset(places.tolist())


def _batches(images: Images, data: DataSettings, side: int, size: int) -> Iterator[tuple[Array, Array]]:
    for pixels, labels in evaluation_batches(images, data, size):
        yield rescale(pixels, side).numpy(), labels.numpy()
