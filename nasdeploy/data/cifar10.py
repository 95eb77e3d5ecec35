"""CIFAR-10 (50,000 training and 10,000 test images, 32x32) in torchvision's form: cifar-10-batches-py/."""

from pathlib import Path

import numpy as np

from nasdeploy.data.images import ArrayImages, ImageSets
from nasdeploy.data.settings import DOWNLOADS, DataSettings
from nasdeploy.data.split import image_sets
from nasdeploy.errors import UserError


def open_cifar10(settings: DataSettings, seed: int) -> ImageSets:
    """CIFAR-10 below `settings.path`; raises `UserError` that says how to get it if it is not there or damaged.

    The files are pickles; torchvision opens them only if their MD5 sums are those of the published ones.
    """
    from torchvision.datasets import CIFAR10

    root = Path(settings.path or DOWNLOADS).expanduser()
    try:
        train, test = CIFAR10(root, train=True), CIFAR10(root, train=False)
    except RuntimeError:
        raise UserError(
            f"{root}: holds no whole cifar-10-batches-py folder; with a connection, fetch it by python -c "
            f"\"from torchvision.datasets import CIFAR10; CIFAR10('{root}', download=True)\", or name the folder that "
            "holds it with data.path or --data DIR (for JPEG files in train/CLASS/ set kind: folder)"
        ) from None
    images = [ArrayImages(np.asarray(part.data), part.targets) for part in (train, test)]
    return image_sets(train.classes, images[0], settings, seed, test=images[1])
