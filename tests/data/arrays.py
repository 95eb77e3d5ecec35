"""Images of noise in memory for tests."""

from collections.abc import Sequence

import numpy as np

from nasdeploy.data.images import ArrayImages


def noise_images(counts: Sequence[int], side: int = 8, seed: int = 0) -> ArrayImages:
    """`counts[label]` images of each label, all different."""
    labels = np.repeat(np.arange(len(counts)), counts)
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), side, side, 3), dtype=np.uint8)
    return ArrayImages(pixels, labels.tolist())
