"""Fashion-MNIST (60,000 training and 10,000 test images, 28x28, grey) as its four idx files, plain or gzipped."""

import gzip
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from tempfile import NamedTemporaryFile

from torch import Tensor

from nasdeploy.core.errors import UserError
from nasdeploy.data.images import ArrayImages
from nasdeploy.data.opened import OpenedData
from nasdeploy.data.settings import DOWNLOADS, DataSettings

DEBIAN = "/usr/share/datasets/fashion-mnist"


def open_fashion_mnist(settings: DataSettings) -> OpenedData:
    """Fashion-MNIST below `settings.path`, or as torchvision or Debian's package dataset-fashion-mnist installs it.

    Raises `UserError` that says how to get it if it is not there, or which file is damaged.
    """
    from torchvision.datasets import FashionMNIST

    folder = _folder([settings.path] if settings.path else [DOWNLOADS, DEBIAN])
    parts = {"train": _read_part(folder, "train"), "test": _read_part(folder, "t10k")}
    return OpenedData.of_arrays(tuple(FashionMNIST.classes), parts)


def _folder(roots: list[str]) -> Path:
    """The folder of the idx files, which torchvision puts into FashionMNIST/raw."""
    for root in roots:
        for place in ("", "raw", "FashionMNIST/raw"):
            folder = Path(root).expanduser() / place
            if any(folder.glob("t10k-images-idx3-ubyte*")):
                return folder
    raise UserError(
        f"{' and '.join(roots)}: no Fashion-MNIST (t10k-images-idx3-ubyte and so on); install Debian's "
        'dataset-fashion-mnist, or with a connection run python -c "from torchvision.datasets import FashionMNIST; '
        f"FashionMNIST('{roots[0]}', download=True)\", or name the folder with data.path or --data DIR"
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
