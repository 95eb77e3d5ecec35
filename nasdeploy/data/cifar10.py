"""CIFAR-10 (50,000 training and 10,000 test images, 32x32) in torchvision's form: cifar-10-batches-py/."""

from pathlib import Path

import numpy as np

from nasdeploy.core.errors import UserError
from nasdeploy.data.images import ArrayImages
from nasdeploy.data.opened import OpenedData
from nasdeploy.data.settings import DOWNLOADS, DataSettings


def open_cifar10(settings: DataSettings) -> OpenedData:
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
    parts = {"train": train, "test": test}
    images = {name: ArrayImages(np.asarray(part.data), part.targets) for name, part in parts.items()}
    return OpenedData.of_arrays(tuple(train.classes), images)
