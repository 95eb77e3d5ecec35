"""The data of a run as commands open them, and the values of the pixels of images."""

from collections.abc import Iterator
from pathlib import Path

from nasdeploy.data.datasets import open_data, read_data
from nasdeploy.data.images import ImageSets
from nasdeploy.data.levels import LOOKED_AT, measured_range, note_on_levels, used_range
from nasdeploy.data.settings import DataSettings, ValueBounds
from nasdeploy.recipe import Recipe
from nasdeploy.store.run import Run
from nasdeploy.tasks.image_data import ImageData
from nasdeploy.tasks.same_images import sets_of_run
from nasdeploy.tasks.task import TaskData


def open_data_of(run: Run, recipe: Recipe) -> ImageSets:
    """Open the images of a run, where `recipe` says that they lie now.

    Raises `UserError` for data that is missing, has other classes, or is not what the run was begun with.
    """
    return sets_of_run(run, recipe.images, recipe.seed, read_data(recipe.images))


def measured_for(recipe: Recipe, directory: Path, restart: bool) -> ValueBounds | None:
    """Return the range that `data.range: measured` stands for: that of the run in a directory, else of the images.

    Pictures of more than 8 bits have values of black and white of their own; the range is that of the training images.
    None if the recipe asks for no such thing. Raises `UserError` for data that is missing or has no such pictures.
    """
    if not isinstance(recipe.data, DataSettings) or recipe.data.range != "measured":
        return None
    if not restart and (directory / "manifest.json").exists():
        return Run.open(directory).manifest.range
    return measured_range(open_data(recipe.images, recipe.seed).train).bounds


def lines_on_range(recipe: Recipe, measured: ValueBounds | None, data: TaskData) -> Iterator[str]:
    """Give what a user should know of the range that pictures are decoded with: what was measured, or what is lost."""
    if measured is not None:
        low, high = measured
        yield f"black and white of the pictures are {low:.6g} and {high:.6g}, measured on training images"
    elif isinstance(data, ImageData) and data.settings.range != "measured":
        note = note_on_levels(used_range(data.sets.train, LOOKED_AT), data.settings.range)
        if note:
            yield note
