"""What a first recipe says where a pretrained network is started from: its space, image size and phases of training.

The time that is given is divided between the original, the search, and the network that is chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from os.path import realpath
from typing import Protocol

from nasdeploy.core.settings import parse
from nasdeploy.data.inspect import FolderSummary
from nasdeploy.data.settings import AugmentSettings
from nasdeploy.importers.importer import ExpectedImages, Imported
from nasdeploy.initial_recipe.choices import (
    Draft,
    SearchShape,
    Shape,
    Training,
    divided,
    has_gpu,
    images_for,
    machine,
    original_alone,
    seconds_per_image,
)
from nasdeploy.searching.loss_table import ENOUGH, cuts
from nasdeploy.spaces import load_space
from nasdeploy.spaces.grown import GrownSettings, cuts_of
from nasdeploy.spaces.kind import SpaceSettings
from nasdeploy.store.run import RUNS
from nasdeploy.supernet.settings import StartSettings

_ORIGINAL_SHARE = 1 / 3
"""The part of the time for training that the original takes; the rest is for the network that is chosen."""
_ELASTIC_EPOCHS = 0
"""The epochs in which networks are made elastic: networks merely sliced out of the original are told apart well enough
to choose one (docs/pretrained.md), and every epoch is worth more to the one that was chosen."""
_SEARCH_SHARE = 0.2
"""The part of all the time that is for the search."""
_MEASURING_S = 120.0
"""The seconds that measuring on the device, export and proof take beside all that."""
_FEWEST_EPOCHS, _MOST_EPOCHS = 2, 30
_WANTED_EPOCHS = 3
"""The epochs of the original for which smaller images are taken, as far as they have to be."""
_SMALLEST_SIDE = 96
"""The side in pixels that smaller images are enlarged to, and the smallest that is taken for want of time: a network of
photographs sees little in fewer (docs/pretrained.md)."""
_SIDES = (0.625, 0.75, 0.875, 1.0)
"""The sides of the images to choose from, as parts of the largest."""
# In training steps of the original alone: its outputs as a teacher, a step of the largest, the smallest and two other
# networks, and one of a network within half of the latency.
_TEACHING, _SANDWICH, _CHOSEN = 0.33, 2.5, 0.5
_LEAST_CROP = 0.5
"""The smallest part of a picture that is learned from: crops of a twelfth want more epochs than there are. The original
of docs/pretrained.md is right on 83.9 % after four epochs with crops from 0.6 on, 83.4 with 0.35, 80.1 with 0.08."""
_RATE, _RATE_BATCH = 6e-4, 32
"""The original's learning rate for a batch; those of other sizes go by the square root of it."""
_MANY_IMAGES = 4000
"""The number of images from which on there are enough steps of 64 of them, not 32."""
_SEARCH_BATCH, _SEARCH_BATCHES = 64, 2
_FORWARD = 0.3
"""What a forward pass of a network to choose from costs, in training steps of the original."""
_WANTED_EVALUATIONS = 40
"""The number of networks scored for which fewer images are held out, as far as they have to be."""
_FEWEST_EVALUATIONS, _MOST_EVALUATIONS = {"additive": 24, "evolution": 100}, 200
_ROUNDS = {"additive": 3, "evolution": 10}


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

    @property
    def needed_s(self) -> float:
        """Estimated seconds from the beginning of training to the proof of what was exported."""
        return self.training_s + self.search_s + self.phases.finetuning_s + _MEASURING_S


def pretrained_draft(folder: FolderSummary, start: StartSettings, imported: Imported, hours: float) -> PretrainedDraft:
    """Return a recipe that starts from a pretrained network, and takes about `hours` here from training to export.

    Times a few steps, which takes some seconds.
    """
    largest = largest_side(folder, imported)
    space = parse(GrownSettings, _space(imported, (largest,)), start.model)
    image_s = seconds_per_image(space.build(len(folder.classes)), largest, 64 if has_gpu() else 16, original_alone)
    return pretrained_from(folder, start, imported, image_s, hours)


def pretrained_from(
    folder: FolderSummary, start: StartSettings, imported: Imported, image_s: float, hours: float
) -> PretrainedDraft:
    """Return the recipe for a machine on which a step of the original takes `image_s` for an image of the largest
    side."""
    images, _ = images_for(folder)
    largest = largest_side(folder, imported)
    side = _side(largest, images * image_s, _training_s(3600 * hours))
    shape = Shape("grown", side, round(side / imported.expected.crop_pct), AugmentSettings(scale=(_LEAST_CROP, 1.0)))
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
    """Return the recipe for a space, and for images on which a step of the original takes `step_s` seconds each."""
    table = _cuts(space, len(folder.classes))
    images, holdout = _division(folder, table, step_s, 3600 * hours)
    phases = _phases(images * step_s, _training_s(3600 * hours))
    training = Training(images, _batch_size(images), phases.original + phases.elastic, images * step_s, holdout)
    search = _search(table, training, step_s, 3600 * hours)
    return PretrainedDraft(folder, shape, training, search, machine(), start, space, network, phases)


def largest_side(folder: FolderSummary, imported: Imported) -> int:
    """Return the side of the largest images that are worth it: the network's own, or as many pixels as there are."""
    return min(imported.expected.size, max(_SMALLEST_SIDE, folder.sides[1] // 16 * 16))


def _training_s(seconds: float) -> float:
    """Return what of the time is for training the original and the chosen network."""
    return max((1 - _SEARCH_SHARE) * seconds - _MEASURING_S, 0.0)


def _side(largest: int, epoch_s: float, seconds: float) -> int:
    """Return the side with which the original gets its epochs, of which one takes `epoch_s` at `largest`."""
    for side in range(largest, _SMALLEST_SIDE, -16):
        if _WANTED_EPOCHS * epoch_s * (side / largest) ** 2 <= _ORIGINAL_SHARE * seconds:
            return side
    return min(largest, _SMALLEST_SIDE)


def _division(folder: FolderSummary, table: int, step_s: float, seconds: float) -> tuple[int, float]:
    """Return images to learn from, and the part held out, for a search that takes its share of `seconds`."""
    forward_s = _FORWARD * step_s
    table_s = table * (_SEARCH_BATCH * _SEARCH_BATCHES + ENOUGH) * forward_s
    evaluation_s = (_SEARCH_SHARE * seconds - table_s) / _WANTED_EVALUATIONS
    return divided(folder, evaluation_s / forward_s - _SEARCH_BATCH * _SEARCH_BATCHES)


def _sides(side: int) -> tuple[int, ...]:
    return tuple(sorted({round(part * side / 16) * 16 for part in _SIDES[:-1]} | {side}))


def _phases(epoch_s: float, seconds: float) -> Phases:
    def epochs(within_s: float, each_s: float) -> int:
        return min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, round(within_s / each_s)))

    elastic_s, finetune_s = (_SANDWICH + _TEACHING) * epoch_s, (_CHOSEN + _TEACHING) * epoch_s
    original = epochs(_ORIGINAL_SHARE * seconds, epoch_s)
    # Where the fewest epochs of the original take more than its share, the chosen network has only the rest.
    finetune = epochs(min((1 - _ORIGINAL_SHARE) * seconds, seconds - original * epoch_s), finetune_s)
    return Phases(original, _ELASTIC_EPOCHS, finetune, epoch_s, elastic_s, finetune_s)


def _batch_size(images: int) -> int:
    largest = 128 if has_gpu() else 64 if images >= _MANY_IMAGES else 32
    return max(8, min(largest, 1 << max(0, images // 16).bit_length()))


def original_rate(batch_size: int) -> float:
    """Return the learning rate of the original for a batch size, with two digits."""
    return float(f"{_RATE * sqrt(batch_size / _RATE_BATCH):.2g}")


def _cuts(space: str | SpaceSettings, classes: int) -> int:
    """Return the number of entries of a table of loss."""
    return len({cut.arch for cut in cuts(load_space(space, classes))})


def _search(table: int, training: Training, step_s: float, seconds: float) -> SearchShape:
    """Return a search by a table of loss of so many entries, or by evolution where that would take too long."""
    scored, calibrated, forward_s = training.held_out, _SEARCH_BATCH * _SEARCH_BATCHES, _FORWARD * step_s
    evaluation_s, cut_s = (calibrated + scored) * forward_s, (calibrated + min(scored, ENOUGH)) * forward_s
    table_s, wanted_s = table * cut_s, _SEARCH_SHARE * seconds
    strategy = "additive" if table_s <= max(wanted_s, _FEWEST_EVALUATIONS["evolution"] * evaluation_s) else "evolution"
    table, table_s = (table, table_s) if strategy == "additive" else (0, 0.0)
    wanted = int((wanted_s - table_s) / evaluation_s)
    evaluations = min(_MOST_EVALUATIONS, max(_FEWEST_EVALUATIONS[strategy], wanted))
    rounds = _ROUNDS[strategy]
    parents = 4 * ceil(evaluations / (rounds + 1) / 2)
    return SearchShape(_SEARCH_BATCH, _SEARCH_BATCHES, parents, rounds, evaluation_s, table, table_s, strategy)


def _space(imported: Imported, sides: tuple[int, ...]) -> dict[str, object]:
    cut = cuts_of(imported.stem, imported.stages, imported.head, sides)
    return {"kind": "grown", "name": imported.name.lower(), **cut}
