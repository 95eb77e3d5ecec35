"""Folder summaries and drafts for tests, without a folder and without timing anything."""

from pathlib import Path

from nasdeploy.data.inspect import FolderSummary
from nasdeploy.initial_recipe.choices import Draft, ImageTimes, search_for, shape_for, training_for


def summary(
    train: int = 1000, side: int = 32, classes: int = 4, test: int | None = None, name: str = "photos"
) -> FolderSummary:
    labels = tuple(f"class {i}" for i in range(classes))
    images = {"train": train, **({} if test is None else {"test": test})}
    per_class = dict.fromkeys(labels, train // classes)
    return FolderSummary(Path("/images") / name, labels, images, per_class, (side, side, side), ())


def times(sandwich: float) -> ImageTimes:
    """Times of an image that have about the ratios of space `cifar10`."""
    return ImageTimes(sandwich, largest=0.65 * sandwich, smallest=sandwich / 16)


def draft(folder: FolderSummary, image_s: float = 0.01, hours: float = 1.0) -> Draft:
    shape = shape_for(folder.sides[1])
    training = training_for(folder, shape, times(image_s), hours)
    return Draft(folder, shape, training, search_for(training, shape, image_s, hours), "2 CPU cores")
