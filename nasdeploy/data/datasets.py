"""Every kind of data that a recipe can name, and opening it: folders, shards, and three published sets."""

import gzip
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
from torch import Tensor

from nasdeploy.core.errors import UserError
from nasdeploy.data.folder import open_folder
from nasdeploy.data.images import ArrayImages, ImageSets
from nasdeploy.data.inventory import OpenedData
from nasdeploy.data.settings import DOWNLOADS, DatasetKind, DataSettings
from nasdeploy.data.shards import open_shards
from nasdeploy.data.split import split_sets

DEBIAN = "/usr/share/datasets/fashion-mnist"


def open_digits(settings: DataSettings) -> OpenedData:
    """Return the digits; their 17 grey levels are spread over 0 to 255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)
    classes = tuple(str(name) for name in digits.target_names)
    return OpenedData.of_arrays(classes, {"train": ArrayImages(pixels, digits.target)})


def open_cifar10(settings: DataSettings) -> OpenedData:
    """Return CIFAR-10 below `settings.path`; raises `UserError` that says how to get it if it is not there or damaged.

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
            "holds it with data.path or `data=DIR` (for JPEG files in train/CLASS/ set kind: folder)"
        ) from None
    parts = {"train": train, "test": test}
    images = {name: ArrayImages(np.asarray(part.data), part.targets) for name, part in parts.items()}
    return OpenedData.of_arrays(tuple(train.classes), images)


def open_fashion_mnist(settings: DataSettings) -> OpenedData:
    """Return Fashion-MNIST below `settings.path`, or as torchvision or Debian's dataset-fashion-mnist installs it.

    Raises `UserError` that says how to get it if it is not there, or which file is damaged.
    """
    from torchvision.datasets import FashionMNIST

    folder = _folder([settings.path] if settings.path else [DOWNLOADS, DEBIAN])
    parts = {"train": _read_part(folder, "train"), "test": _read_part(folder, "t10k")}
    return OpenedData.of_arrays(tuple(FashionMNIST.classes), parts)


def _folder(roots: list[str]) -> Path:
    """Return the folder of the idx files, which torchvision puts into FashionMNIST/raw."""
    for root in roots:
        for place in ("", "raw", "FashionMNIST/raw"):
            folder = Path(root).expanduser() / place
            if any(folder.glob("t10k-images-idx3-ubyte*")):
                return folder
    raise UserError(
        f"{' and '.join(roots)}: no Fashion-MNIST (t10k-images-idx3-ubyte and so on); install Debian's "
        'dataset-fashion-mnist, or with a connection run python -c "from torchvision.datasets import FashionMNIST; '
        f"FashionMNIST('{roots[0]}', download=True)\", or name the folder with data.path or `data=DIR`"
    )


def _read_part(folder: Path, part: str) -> ArrayImages:
    from torchvision.datasets.mnist import read_image_file, read_label_file

    images = _read(folder / f"{part}-images-idx3-ubyte", read_image_file)
    labels = _read(folder / f"{part}-labels-idx1-ubyte", read_label_file)
    if len(images) != len(labels):
        raise UserError(f"{folder}: {len(images)} images but {len(labels)} labels in {part}-*; fetch the files anew")
    return ArrayImages(images.numpy(), labels.tolist())


def _read(path: Path, reader: Callable[[str], Tensor]) -> Tensor:
    packed = path.with_name(path.name + ".gz")
    try:
        if path.exists() or not packed.exists():
            return reader(str(path))
        with gzip.open(packed) as source, NamedTemporaryFile() as plain:
            shutil.copyfileobj(source, plain)
            plain.flush()
            return reader(plain.name)
    # torchvision's reader checks what it reads with assertions.
    except (OSError, EOFError, zlib.error, AssertionError, KeyError, RuntimeError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error or type(error).__name__}); fetch it anew") from None


DATASETS: dict[DatasetKind, Callable[[DataSettings], OpenedData]] = {
    "folder": open_folder,
    "shards": open_shards,
    "digits": open_digits,
    "cifar10": open_cifar10,
    "fashion-mnist": open_fashion_mnist,
    "python": lambda settings: settings.given,
}


def read_data(settings: DataSettings) -> OpenedData:
    """Return the images that `settings` describe, not split yet.

    Raises `UserError` naming what is missing or damaged.
    """
    return DATASETS[settings.kind](settings)


def open_data(settings: DataSettings, seed: int) -> ImageSets:
    """Return the images that `settings` describe, split by `seed`; raises `UserError` for what is missing or damaged.

    Those of a run are split as it says, see `nasdeploy.workflows.resume`.
    """
    return split_sets(read_data(settings), settings, seed)
