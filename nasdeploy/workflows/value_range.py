"""The values of black and white of a run whose pictures have more than 8 bits."""

from collections.abc import Iterator
from pathlib import Path

from nasdeploy.data.datasets import open_data
from nasdeploy.data.images import Images
from nasdeploy.data.levels import LOOKED_AT, measured_range, note_on_levels, used_range
from nasdeploy.data.settings import ValueBounds
from nasdeploy.recipe import Recipe
from nasdeploy.store.run import Run


def measured_for(recipe: Recipe, directory: Path, restart: bool) -> ValueBounds | None:
    """The range that `data.range: measured` stands for: that of the run in a directory, else of the training images.

    None if the recipe asks for no such thing. Raises `UserError` for data that is missing or has no such pictures.
    """
    if recipe.images.range != "measured":
        return None
    if not restart and (directory / "manifest.json").exists():
        return Run.open(directory).manifest.range
    return measured_range(open_data(recipe.images, recipe.seed).train).bounds


def lines_on_range(recipe: Recipe, measured: ValueBounds | None, images: Images) -> Iterator[str]:
    """What a user should know of the range that pictures are decoded with: what was measured, or what is lost."""
    if measured is not None:
        low, high = measured
        yield f"black and white of the pictures are {low:.6g} and {high:.6g}, measured on training images"
    elif recipe.images.range != "measured":
        note = note_on_levels(used_range(images, LOOKED_AT), recipe.images.range)
        if note:
            yield note
