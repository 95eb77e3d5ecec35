"""The images of a run, as commands open them."""

from nasdeploy.data.datasets import read_data
from nasdeploy.data.images import ImageSets
from nasdeploy.recipe import Recipe
from nasdeploy.store.run import Run
from nasdeploy.tasks.same_images import sets_of_run


def open_data_of(run: Run, recipe: Recipe) -> ImageSets:
    """The images of a run, where `recipe` says that they lie now.

    Raises `UserError` for data that is missing, has other classes, or is not what the run was begun with.
    """
    return sets_of_run(run, recipe.images, recipe.seed, read_data(recipe.images))
