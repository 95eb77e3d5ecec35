"""The 8x8 digits that come with scikit-learn (1,797 images, 10 classes): no download, seconds to train on."""

import numpy as np

from nasdeploy.data.images import ArrayImages
from nasdeploy.data.opened import OpenedData
from nasdeploy.data.settings import DataSettings


def open_digits(settings: DataSettings) -> OpenedData:
    """The digits; their 17 grey levels are spread over 0 to 255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    classes = tuple(str(name) for name in digits.target_names)
    return OpenedData.of_arrays(classes, {"train": ArrayImages(pixels, digits.target)})
