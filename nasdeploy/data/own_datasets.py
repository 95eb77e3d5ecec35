"""Data sets of one's own: any PyTorch `Dataset` of pictures and labels, in place of files that a recipe names."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from PIL import Image

from nasdeploy.core.errors import UserError
from nasdeploy.data.facts import DIGEST_BYTES
from nasdeploy.data.images import Images, Indices, as_indices
from nasdeploy.data.inventory import Identities, OpenedData
from nasdeploy.data.settings import LabelledDataset

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
        return DatasetImages(self._part, self._dataset, self._indices[chosen], self.labels[chosen])


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
        labels = np.array([label for label, _, _ in found], dtype=np.int64)
        images[part] = DatasetImages(part, dataset, np.arange(len(found)), labels)
        identities[part] = Identities(
            tuple(f"{part}/{place}" for place in range(len(found))),
            np.array([size for _, size, _ in found], dtype=np.int64),
            np.frombuffer(b"".join(digest for _, _, digest in found), dtype=np.uint8).reshape(-1, DIGEST_BYTES),
        )
    return OpenedData(_classes(parts["train"], images), images, identities)


def _classes(train: LabelledDataset, images: Mapping[str, Images]) -> tuple[str, ...]:
    """Return the names of the classes; raises `UserError` for a label beyond them."""
    most = max((int(each.labels.max(initial=-1)) for each in images.values()), default=-1)
    names = tuple(str(name) for name in getattr(train, "classes", range(most + 1)))
    if most >= len(names):
        raise UserError(f"data: label {most}, and the data set names {len(names)} classes; labels are 0 to classes - 1")
    return names


def _facts(sample: Any, where: str) -> tuple[int, int, bytes]:
    """Return label, size in bytes and digest of one sample."""
    try:
        picture, label = sample
    except (TypeError, ValueError):
        raise UserError(f"data: {where} is {type(sample).__name__}; a picture and its label are expected") from None
    number = int(label) if isinstance(label, int | np.integer | torch.Tensor) else -1
    if number < 0:
        raise UserError(f"data: the label of {where} is {label!r}; the index of a class is expected, from 0 on")
    pixels = np.ascontiguousarray(_picture(picture, where))
    return number, pixels.size, sha256(pixels.data).digest()[:DIGEST_BYTES]


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
