"""The 8x8 digits that come with scikit-learn (1,797 images, 10 classes): no download, seconds to train on."""

import numpy as np

from nasdeploy.data.images import ArrayImages, ImageSets
from nasdeploy.data.settings import DataSettings
from nasdeploy.data.split import image_sets


def open_digits(settings: DataSettings, seed: int) -> ImageSets:
    """The digits, split by `seed`; their 17 grey levels are spread over 0 to 255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return image_sets([str(name) for name in digits.target_names], ArrayImages(pixels, digits.target), settings, seed)
