"""What a classifier's file makes of each test image, as a run keeps it beside its exports. Torch-free.

A proof runs the file on the whole test set; what it answers there is kept in RUN/predictions, in a file of arrays named
after the sum of the model's file, with small pictures of the most confident mistakes. It is no part of a bundle, which
goes to others: the pictures are the user's own.
"""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.data.decode import UnreadableImage
from nasdeploy.data.facts import texts_as_bytes, texts_from_bytes
from nasdeploy.data.images import Images
from nasdeploy.exporting.bundle.predict import probabilities
from nasdeploy.runtimes.runtime import Array
from nasdeploy.store.files import write_bytes

WORST = 12
"""The number of mistakes whose pictures are kept."""
_SIDE = 96
"""The longer side in pixels of these pictures at most."""
_TINY = 32
"""The side up to which a picture is kept without loss, as a PNG; others are JPEG files."""


@dataclass(frozen=True)
class Mistake:
    """A test image that gets a wrong class."""

    place: int
    """The place in the test set, from 0."""
    name: str
    """The end of the path of its file, such as `test/cat/1.jpg`; its place where it has none of its own."""
    picture: bytes
    """A small PNG or JPEG; empty where the image cannot be read any more."""


@dataclass(frozen=True)
class FilePredictions:
    """The answers of one file on all test images, in the order of the test set; N images."""

    labels: Array
    """The classes that the images have, int64 `[N]`."""
    classes: Array
    """The classes that they get, int64 `[N]`."""
    probabilities: Array
    """The probability (softmax) of the class that an image gets, float32 `[N]`."""
    probabilities_of_truth: Array
    """The probability of the class that it has, float32 `[N]`."""
    mistakes: tuple[Mistake, ...] = ()
    """The most confident mistakes, most confident first, at most `WORST`."""

    def save(self, path: Path) -> None:
        """Write the arrays, whole or not at all."""
        content = BytesIO()
        pictures = [mistake.picture for mistake in self.mistakes]
        np.savez_compressed(
            content,
            allow_pickle=False,
            labels=self.labels,
            classes=self.classes,
            probabilities=self.probabilities,
            probabilities_of_truth=self.probabilities_of_truth,
            places=np.array([mistake.place for mistake in self.mistakes], dtype=np.int64),
            names=np.frombuffer(texts_as_bytes([mistake.name for mistake in self.mistakes]), dtype=np.uint8),
            pictures=np.frombuffer(b"".join(pictures), dtype=np.uint8),
            sizes=np.array([len(picture) for picture in pictures], dtype=np.int64),
        )
        write_bytes(path, content.getvalue())

    @classmethod
    def load(cls, path: Path, classes: int) -> "FilePredictions":
        """Return what `save` wrote of a file for so many classes; raises `UserError` if it is damaged."""
        try:
            found = cls._of(_arrays(path))
            found.require_of(classes)
        except OSError as error:
            raise _damaged(path, error.strerror or error) from None
        except (ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            raise _damaged(path, error) from None
        return found

    @classmethod
    def _of(cls, arrays: dict[str, Array]) -> "FilePredictions":
        places, content = arrays["places"].tolist(), arrays["pictures"].tobytes()
        ends = np.cumsum(arrays["sizes"]).tolist()
        starts = [0, *ends][: len(ends)]
        names = texts_from_bytes(arrays["names"], len(places))
        pictures = [content[start:end] for start, end in zip(starts, ends, strict=True)]
        return cls(
            labels=arrays["labels"],
            classes=arrays["classes"],
            probabilities=arrays["probabilities"],
            probabilities_of_truth=arrays["probabilities_of_truth"],
            mistakes=tuple(map(Mistake, places, names, pictures)) if len(places) == len(pictures) else (),
        )

    def require_of(self, classes: int) -> None:
        """Raise `ValueError` unless all arrays are of the same images, and of classes below that number."""
        arrays = (self.labels, self.classes, self.probabilities, self.probabilities_of_truth)
        if any(array.shape != (len(self.labels),) for array in arrays) or not len(self.labels):
            raise ValueError("its arrays are not of the same images")
        if any(array.dtype != np.int64 or array.min() < 0 or array.max() >= classes for array in arrays[:2]):
            raise ValueError(f"it names classes that are not among the {classes} of the model")
        if any(array.dtype != np.float32 or not np.isfinite(array).all() for array in arrays[2:]):
            raise ValueError("its probabilities are no numbers")
        if any(not 0 <= mistake.place < len(self.labels) for mistake in self.mistakes):
            raise ValueError("it names images that are not among its own")


_MOST_BYTES = 1 << 28
"""The most that the arrays may take: those of ten million images."""


def _arrays(path: Path) -> dict[str, Array]:
    """Return the arrays in a file; raises `ValueError` for more than the predictions of a test set."""
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > _MOST_BYTES:
            raise ValueError("it holds more than the predictions of a test set")
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _damaged(path: Path, reason: object) -> UserError:
    return UserError(f"{path}: damaged ({one_line(reason)}); delete it, and it is made anew")


def predictions_file(run: Path, sha256: str) -> Path:
    """Return where a run keeps the predictions of the model's file with that sum, whether or not it does."""
    return run / "predictions" / f"{sha256[:16]}.npz"


class PredictionTally:
    """Collects the answers of a file, batch by batch."""

    def __init__(self) -> None:
        self._rows: list[tuple[Array, Array, Array, Array]] = []

    def add(self, labels: Array, logits: Array) -> None:
        """Take a batch of labels `[N]` and logits `[N, classes]`, of which those that are no numbers count as 0."""
        shares = np.nan_to_num(probabilities(np.nan_to_num(logits))).astype(np.float32)
        rows, predicted = np.arange(len(labels)), logits.argmax(axis=1)
        self._rows.append((labels.astype(np.int64), predicted, shares[rows, predicted], shares[rows, labels]))

    def predictions(self, images: Images, classes: Sequence[str]) -> FilePredictions:
        """Return all answers, with pictures of the worst of the `images`, which are those of the batches in order."""
        labels, predicted, shares, of_truth = (np.concatenate(column) for column in zip(*self._rows, strict=True))
        wrong = np.flatnonzero(labels != predicted)
        worst = wrong[np.argsort(-shares[wrong], kind="stable")][:WORST].tolist()
        mistakes = tuple(Mistake(place, _name(images, place, classes), _picture(images, place)) for place in worst)
        return FilePredictions(labels, predicted, shares, of_truth, mistakes)


def _name(images: Images, place: int, classes: Sequence[str]) -> str:
    """Return the end of an image's path, from its part of the data on: where that lies is nobody else's business."""
    path = images.path(place)
    return images.name_of(place, classes) if path is None else "/".join(path.parts[-3:])


def _picture(images: Images, place: int) -> bytes:
    """Return a small picture of an image; nothing if it cannot be read."""
    try:
        picture = images.image(place)
    except UnreadableImage:
        return b""
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    content = BytesIO()
    if max(picture.size) <= _TINY:
        picture.save(content, "PNG")
    else:
        picture.save(content, "JPEG", quality=85)
    return content.getvalue()
