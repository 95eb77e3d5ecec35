"""Seeded stratified splits, and the sets of a run made with them.

Own code rather than scikit-learn's: a split that changed with a library's version would let test images into the
training of a resumed run.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256

import numpy as np

from nasdeploy.data.images import Images, ImageSets, Indices
from nasdeploy.data.settings import DataSettings
from nasdeploy.errors import UserError
from nasdeploy.randomness import generator


def stratified(
    labels: Sequence[int] | Indices, fraction: float, seed: int, purpose: str
) -> tuple[list[int], list[int]]:
    """Indices of (the rest, `fraction` of each class), ascending; both parts have an image of every class.

    Each class needs two images.
    """
    rest, part = [], []
    for members in _shuffled_classes(labels, seed, purpose):
        taken = min(max(1, round(fraction * len(members))), len(members) - 1)
        part += members[:taken]
        rest += members[taken:]
    return sorted(rest), sorted(part)


def some_of_each(labels: Sequence[int] | Indices, count: int, seed: int) -> list[int]:
    """Indices of `count` images of each class (all where it has fewer), ascending."""
    return sorted(i for members in _shuffled_classes(labels, seed, "images per class") for i in members[:count])


def _shuffled_classes(labels: Sequence[int] | Indices, seed: int, purpose: str) -> list[list[int]]:
    array = np.asarray(labels)
    return [
        generator(seed, purpose, int(label)).permutation(np.flatnonzero(array == label)).tolist()
        for label in np.unique(array)
    ]


def image_sets(
    classes: Sequence[str],
    training: Images,
    settings: DataSettings,
    seed: int,
    *,
    val: Images | None = None,
    test: Images | None = None,
    notes: Sequence[str] = (),
) -> ImageSets:
    """The sets of a run from the training images and, where the data has them, validation and test images.

    Raises `UserError` if there are fewer than two classes or too few images of one.
    """
    counts = np.bincount(training.labels, minlength=len(classes)).tolist()
    require_enough(dict(zip(classes, counts, strict=True)), has_test=test is not None)
    for name, given in (("val", val), ("test", test)):
        if given is not None and not len(given):
            raise UserError(f"data: no readable images in the {name} part; add some, or remove it")
    fingerprint = fingerprint_of(training)
    if test is None:
        rest, part = stratified(training.labels, settings.test, seed, "test")
        training, test = training.subset(rest), training.subset(part)
    if settings.images_per_class is not None:
        training = training.subset(some_of_each(training.labels, settings.images_per_class, seed))
    rest, part = stratified(training.labels, settings.holdout, seed, "search")
    train, search = training.subset(rest), training.subset(part)
    return ImageSets(tuple(classes), train, search, search if val is None else val, test, fingerprint, tuple(notes))


def fingerprint_of(images: Images) -> str:
    """How many images there are, and a digest of their labels and, where they have any, names."""
    labels = images.labels.astype("<i8").tobytes()
    return f"{len(images)} images, {sha256(labels + images.names()).hexdigest()[:12]}"


def require_enough(counts: Mapping[str, int], has_test: bool) -> None:
    """Raise `UserError` unless there are two classes, and for each part of a run's data an image of every class.

    `counts` are those of training images by class; `has_test` says whether the data brings its own test images.
    """
    if len(counts) < 2:
        raise UserError(f"data: only one class ({', '.join(counts)}); at least two are needed")
    fewest, purposes = (2, "training and search") if has_test else (3, "training, search and test")
    for label, count in counts.items():
        if count < fewest:
            raise UserError(
                f"data: class '{label}' has {count} image{'' if count == 1 else 's'}; at least {fewest} are needed "
                f"(for {purposes})"
            )
