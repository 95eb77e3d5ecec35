"""What a first recipe says where a pretrained network is started from: its space, image size and phases of training.

The time that is given is divided between the original, the supernet, the search, and the network that is chosen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from os.path import realpath
from typing import Protocol

from nasdeploy.core.settings import parse
from nasdeploy.data.inspect import FolderSummary
from nasdeploy.importers.importer import ExpectedImages, Imported
from nasdeploy.initial_recipe.choices import (
    FORWARD_PASSES_A_STEP,
    Draft,
    SearchShape,
    Shape,
    Training,
    has_gpu,
    images_for,
    machine,
    seconds_per_image,
)
from nasdeploy.spaces.grown import GrownSettings, cuts_of
from nasdeploy.spaces.kind import SpaceSettings
from nasdeploy.store.run import RUNS
from nasdeploy.supernet.settings import StartSettings

SHARES: Mapping[str, float] = {"original": 0.25, "elastic": 0.2, "search": 0.2, "finetune": 0.35}
"""The parts of the time that are for training the original, for making it elastic, for the search, and for training the
network that is chosen further."""
_FEWEST_EPOCHS, _MOST_EPOCHS = 2, 30
_WANTED_EPOCHS = 4
"""The epochs of the original for which smaller images are taken, as far as they have to be."""
_SMALLEST_SIDE = 96
"""The side in pixels that smaller images are enlarged to: a network of photographs sees little in fewer."""
_SIDES = (0.625, 0.75, 0.875, 1.0)
"""The sides of the images to choose from, as parts of the largest."""
# The original alone takes 0.4 of a step with the smallest, two others and itself, its outputs as a teacher 0.13.
_ALONE, _TEACHING = 0.4, 0.13
_LEAST_CROP = 0.35
"""The smallest part of a picture that is learned from: a few epochs are too short for crops of a twelfth."""
_SEARCH_BATCH, _SEARCH_BATCHES = 64, 2
_FEWEST_EVALUATIONS, _MOST_EVALUATIONS, _ROUNDS = 100, 1000, 10


@dataclass(frozen=True)
class Phases:
    """The epochs of each part of the training, and the seconds that one of them takes here."""

    original: int
    elastic: int
    finetune: int
    original_s: float
    elastic_s: float
    finetune_s: float

    @property
    def training_s(self) -> float:
        """Estimated seconds of training the original and the supernet."""
        return self.original * self.original_s + self.elastic * self.elastic_s

    @property
    def finetuning_s(self) -> float:
        """Estimated seconds of training the chosen network further."""
        return self.finetune * self.finetune_s


class StartingNetwork(Protocol):
    """What a first recipe says of the network that it starts from: an imported one, or the largest of a run."""

    @property
    def expected(self) -> ExpectedImages:
        """The images that it expects."""

    @property
    def classes(self) -> int:
        """The number of classes of its classifier."""

    @property
    def notes(self) -> Sequence[str]:
        """What a user should know of its weights, a line each."""

    @property
    def elastic(self) -> bool:
        """Whether smaller networks were trained in its weights, whose channels are in order then."""


@dataclass(frozen=True)
class PretrainedDraft(Draft):
    """A first recipe that starts from a pretrained network."""

    start: StartSettings
    space: str | SpaceSettings
    """The space, or the name of a registered one."""
    network: StartingNetwork
    phases: Phases

    @property
    def name(self) -> str:
        """The folder's name as the name of a run, but not that of the run that is started from."""
        name = super().name
        taken = self.start.kind == "run" and realpath(self.start.name) == realpath(RUNS / name)
        return f"{name}-2" if taken else name

    @property
    def size(self) -> int:
        """The side of the largest images in pixels."""
        return self.shape.size

    @property
    def training_s(self) -> float:
        """Estimated seconds of training the original and the supernet."""
        return self.phases.training_s


def pretrained_draft(folder: FolderSummary, start: StartSettings, imported: Imported, hours: float) -> PretrainedDraft:
    """Return a recipe that starts from a pretrained network, and takes about `hours` here from training to export.

    Times a few steps, which takes some seconds.
    """
    largest = largest_side(folder, imported)
    space = parse(GrownSettings, _space(imported, (largest,)), start.model)
    image_s = seconds_per_image(space.build(len(folder.classes)), largest, 64 if has_gpu() else 4)
    return pretrained_from(folder, start, imported, image_s, hours)


def pretrained_from(
    folder: FolderSummary, start: StartSettings, imported: Imported, image_s: float, hours: float
) -> PretrainedDraft:
    """Return the recipe for a machine on which a step takes `image_s` seconds for each image of the largest side."""
    images, _ = images_for(folder)
    largest = largest_side(folder, imported)
    side = _side(largest, images * image_s, 3600 * hours)
    shape = Shape("grown", side, round(side / imported.expected.crop_pct), "random-resized", "none", _LEAST_CROP)
    space = parse(GrownSettings, _space(imported, _sides(side)), start.model)
    return drafted(folder, start, imported, space, shape, image_s * (side / largest) ** 2, hours)


def drafted(
    folder: FolderSummary,
    start: StartSettings,
    network: StartingNetwork,
    space: str | SpaceSettings,
    shape: Shape,
    step_s: float,
    hours: float,
) -> PretrainedDraft:
    """Return the recipe for a space, and for images on which a step takes `step_s` seconds each."""
    images, holdout = images_for(folder)
    seconds = 3600 * hours
    phases = _phases(images * step_s, seconds)
    training = Training(images, _batch_size(images), phases.original + phases.elastic, images * step_s, holdout)
    search = _search(training, step_s, seconds)
    return PretrainedDraft(folder, shape, training, search, machine(), start, space, network, phases)


def largest_side(folder: FolderSummary, imported: Imported) -> int:
    """Return the side of the largest images that are worth it: the network's own, or as many pixels as there are."""
    return min(imported.expected.size, max(_SMALLEST_SIDE, folder.sides[1] // 16 * 16))


def _side(largest: int, epoch_s: float, seconds: float) -> int:
    """Return the side with which the original gets its epochs; `epoch_s` is that of a step's networks at `largest`."""
    for side in range(largest, _SMALLEST_SIDE, -16):
        if _WANTED_EPOCHS * _ALONE * epoch_s * (side / largest) ** 2 <= SHARES["original"] * seconds:
            return side
    return min(largest, _SMALLEST_SIDE)


def _sides(side: int) -> tuple[int, ...]:
    return tuple(sorted({round(part * side / 16) * 16 for part in _SIDES[:-1]} | {side}))


def _phases(epoch_s: float, seconds: float) -> Phases:
    def epochs(name: str, each_s: float) -> int:
        return min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, round(SHARES[name] * seconds / each_s)))

    original_s, elastic_s = _ALONE * epoch_s, (1 + _TEACHING) * epoch_s
    finetune_s = (_ALONE / 2 + _TEACHING) * epoch_s
    counts = epochs("original", original_s), epochs("elastic", elastic_s), epochs("finetune", finetune_s)
    return Phases(*counts, original_s, elastic_s, finetune_s)


def _batch_size(images: int) -> int:
    return max(8, min(128 if has_gpu() else 32, 1 << max(0, images // 16).bit_length()))


def _search(training: Training, step_s: float, seconds: float) -> SearchShape:
    scored = training.images * training.holdout / (1 - training.holdout)
    evaluation_s = (_SEARCH_BATCH * _SEARCH_BATCHES + scored) * step_s / FORWARD_PASSES_A_STEP
    wanted = int(SHARES["search"] * seconds / evaluation_s)
    evaluations = min(_MOST_EVALUATIONS, max(_FEWEST_EVALUATIONS, wanted))
    parents = 4 * ceil(evaluations / (_ROUNDS + 1) / 2)
    return SearchShape(_SEARCH_BATCH, _SEARCH_BATCHES, parents, _ROUNDS, evaluation_s)


def _space(imported: Imported, sides: tuple[int, ...]) -> dict[str, object]:
    cut = cuts_of(imported.stem, imported.stages, imported.head, sides)
    return {"kind": "grown", "name": imported.name.lower(), **cut}
