"""Every kind of data, and opening it: folders, shards and three published sets that a recipe names, and one's own.

Data sets of one's own are any PyTorch `Dataset` of pictures and labels.
"""

import gzip
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nasdeploy.core.errors import UserError
from nasdeploy.data.decode import EIGHT_BITS, ImageHeader
from nasdeploy.data.facts import DIGEST_BYTES, Look, records_of
from nasdeploy.data.folder import open_folder
from nasdeploy.data.images import ArrayImages, Images, ImageSets, Indices, as_indices
from nasdeploy.data.inventory import Identities, OpenedData
from nasdeploy.data.settings import DOWNLOADS, DatasetKind, DataSettings, LabelledDataset
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


_PARTS = ("train", "val", "test")


class DatasetImages(Images):
    """The pictures of a data set at some of its indices."""

    def __init__(self, part: str, dataset: LabelledDataset, indices: Indices, labels: Indices) -> None:
        super().__init__(labels)
        self._part, self._dataset, self._indices = part, dataset, indices

    def image(self, index: int) -> Image.Image:
        """Return one picture; see `Images.image`."""
        place = int(self._indices[index])
        return _picture(self._dataset[place][0], f"{self._part}[{place}]")

    def subset(self, indices: Sequence[int]) -> "DatasetImages":
        """Return the images at `indices`, in that order."""
        chosen = as_indices(indices)
        found = DatasetImages(self._part, self._dataset, self._indices[chosen], self.labels[chosen])
        found.records = self.records_at(indices)
        return found


def open_datasets(parts: Mapping[str, LabelledDataset]) -> OpenedData:
    """Return data sets by part (`train`, and `val` and `test` if there are any) as data that can be split and learned.

    Each picture is read once, for its label and for a digest of its pixels, by which a run knows its data again. The
    classes are `dataset.classes` of the training data set where it has them. Raises `UserError` for unknown parts, and
    naming a picture or label that is none.
    """
    if "train" not in parts or not set(parts) <= set(_PARTS):
        raise UserError(f"data sets are given by part, train, and val and test if there are any; found {list(parts)}")
    images, identities = {}, {}
    for part in (part for part in _PARTS if part in parts):
        dataset = parts[part]
        found = [_facts(dataset[place], f"{part}[{place}]") for place in range(len(dataset))]
        labels = np.array([label for label, _ in found], dtype=np.int64)
        images[part] = DatasetImages(part, dataset, np.arange(len(found)), labels)
        records = images[part].records = records_of([look for _, look in found])
        identities[part] = Identities(
            tuple(f"{part}/{place}" for place in range(len(found))),
            records["width"] * records["height"] * 3,
            records["digest"],
        )
    return OpenedData(_classes(parts["train"], images), images, identities)


def _classes(train: LabelledDataset, images: Mapping[str, Images]) -> tuple[str, ...]:
    """Return the names of the classes; raises `UserError` for a label beyond them."""
    most = max((int(each.labels.max(initial=-1)) for each in images.values()), default=-1)
    names = tuple(str(name) for name in getattr(train, "classes", range(most + 1)))
    if most >= len(names):
        raise UserError(f"data: label {most}, and the data set names {len(names)} classes; labels are 0 to classes - 1")
    return names


def _facts(sample: Any, where: str) -> tuple[int, Look]:
    """Return the label of one sample, and digest and size of its picture."""
    try:
        picture, label = sample
    except (TypeError, ValueError):
        raise UserError(f"data: {where} is {type(sample).__name__}; a picture and its label are expected") from None
    number = int(label) if isinstance(label, int | np.integer | torch.Tensor) else -1
    if number < 0:
        raise UserError(f"data: the label of {where} is {label!r}; the index of a class is expected, from 0 on")
    shown = _picture(picture, where)
    digest = sha256(np.ascontiguousarray(shown).data).digest()[:DIGEST_BYTES]
    return number, Look(digest, header=ImageHeader(*shown.size, EIGHT_BITS))


def _picture(value: Any, where: str) -> Image.Image:
    """Return a picture as RGB; raises `UserError` for numbers that were normalised already."""
    if isinstance(value, Image.Image):
        return value.convert("RGB")
    array = value.permute(1, 2, 0).numpy() if isinstance(value, torch.Tensor) and value.ndim == 3 else np.asarray(value)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)):
        raise UserError(
            f"data: {where} is of {array.dtype} {list(array.shape)}; give pictures as they are, as Pillow images or "
            "uint8, without transforms: the recipe's augmentation and normalisation come after"
        )
    return Image.fromarray(array).convert("RGB")
