"""A first recipe that starts from a trained run, or a published supernet: its space and its weights, on other images.

Its largest network is trained on them as a pretrained one would be, and then teaches all others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from nasdeploy.core.errors import UserError
from nasdeploy.data.inspect import FolderSummary
from nasdeploy.importers.importer import ExpectedImages
from nasdeploy.importers.published import PublishedSupernet, read_published
from nasdeploy.initial_recipe.choices import Shape, has_gpu, original_alone, seconds_per_image
from nasdeploy.initial_recipe.pretrained import PretrainedDraft, StartingNetwork, drafted
from nasdeploy.recipe import Recipe, load_recipe, recipe_of, space_of
from nasdeploy.spaces import load_space, name_of
from nasdeploy.spaces.kind import GivenSpace
from nasdeploy.store.checkpoints import trained_weights
from nasdeploy.store.run import Run
from nasdeploy.supernet.settings import StartSettings
from nasdeploy.supernet.weights import require_initialises
from nasdeploy.tasks.classification import Classification

_SMALL, _FEW, _MANY = 48, 4, 32
"""The side of images up to which steps are timed with many of them, not few."""


class StartingSupernet(StartingNetwork, Protocol):
    """A supernet that a recipe starts from, of which the largest network is the one that learns first."""

    @property
    def recipe(self) -> Recipe:
        """The recipe that it was trained with."""

    @property
    def same_classes(self) -> bool:
        """Whether its classifier is kept."""


def _expected(recipe: Recipe) -> ExpectedImages:
    """Return the images that a recipe trains with."""
    data = recipe.images
    return ExpectedImages(data.size, data.mean, data.std, data.size / data.shorter_side)


@dataclass(frozen=True)
class TrainedRun:
    """A run whose supernet a recipe starts from."""

    run: Run
    recipe: Recipe
    same_classes: bool
    """Whether it learned the classes of the images, in their order."""
    wanted: int
    """The number of these classes."""

    @property
    def expected(self) -> ExpectedImages:
        """The images that it was trained with."""
        return _expected(self.recipe)

    @property
    def classes(self) -> int:
        """The number of classes that it learned."""
        return self.run.manifest.output_size

    @cached_property
    def notes(self) -> Sequence[str]:
        """What becomes of its classifier, where the number of classes does not tell."""
        if self.same_classes:
            return [f"the classifier of {self.run.path} is kept: it learned the same classes"]
        if self.classes == self.wanted and not self.run.manifest.classes:
            return [f"a new classifier is begun: {self.run.path} does not know the names of its classes"]
        if self.classes == self.wanted:
            return [f"a new classifier is begun: the classes of {self.run.path} are others than those of the folder"]
        return []

    @property
    def elastic(self) -> bool:
        """Whether smaller networks were trained in its weights, not the largest alone."""
        return any(each.epochs and each.sampling.kind != "largest" for each in self.recipe.train.of_phases)


def open_run(start: StartSettings, classes: Sequence[str]) -> TrainedRun:
    """Return the run that a recipe for images of some classes starts from.

    Raises `UserError` for one that is not there, not finished or damaged, of another task, or of a space that no file
    holds.
    """
    run = Run.open(Path(start.name))
    recipe = recipe_of(run)
    if recipe.task != Classification.name:
        raise UserError(f"start {start.model}: it learned task {recipe.task}, and a folder of images has classes")
    if isinstance(recipe.space, GivenSpace):
        raise UserError(
            f"start {start.model}: its space {recipe.space.name} is a Python object, which no recipe can hold; train "
            "with `nd.train(init=DIR, space=SPACE)`"
        )
    require_initialises(space_of(run, recipe), trained_weights(run).path, classifier=True)
    return TrainedRun(run, recipe, run.manifest.classes == tuple(classes), len(classes))


@dataclass(frozen=True)
class PublishedStart:
    """A published supernet that a recipe starts from."""

    supernet: PublishedSupernet
    recipe: Recipe
    """The recipe that such supernets were trained with."""
    wanted: int
    """The number of classes of the images."""
    elastic: bool = True

    @property
    def expected(self) -> ExpectedImages:
        """The images that it was trained with."""
        return _expected(self.recipe)

    @property
    def classes(self) -> int:
        """The number of classes that it learned."""
        return self.supernet.classes

    @property
    def same_classes(self) -> bool:
        """Whether it learned as many classes as the images have: a file names none."""
        return self.classes == self.wanted

    @property
    def notes(self) -> Sequence[str]:
        """What to know of the file, and what becomes of the classifier where the number of classes does not tell."""
        kept = f"the classifier of {self.supernet.path} is kept: its classes must be the folder's, in the same order"
        return [*self.supernet.notes, *([kept] if self.same_classes else [])]


def open_published(start: StartSettings, classes: Sequence[str]) -> PublishedStart:
    """Return the published supernet that a recipe for images of some classes starts from.

    Raises `UserError` for a file that is not there, or holds no such weights.
    """
    supernet = read_published(start.kind, Path(start.name))
    return PublishedStart(supernet, load_recipe(supernet.recipe, [f"space={supernet.space}"]), len(classes))


def run_draft(folder: FolderSummary, start: StartSettings, network: StartingSupernet, hours: float) -> PretrainedDraft:
    """Return a recipe that starts from a trained supernet, and takes about `hours` here from training to export.

    Times a few steps, which takes some seconds.
    """
    space, data = network.recipe.space, network.recipe.images
    shape = Shape(name_of(space), data.size, data.shorter_side, data.augment)
    batch = 64 if has_gpu() else _FEW if data.size > _SMALL else _MANY
    image_s = seconds_per_image(load_space(space, len(folder.classes)), data.size, batch, original_alone)
    kept = start.model_copy(update={"classifier": "keep" if network.same_classes else "new"})
    return drafted(folder, kept, network, space, shape, image_s, hours)
