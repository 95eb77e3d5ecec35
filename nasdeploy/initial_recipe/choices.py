"""What a first recipe says for a folder of images, this machine, and the time that training may take.

How fast the machine trains a supernet is measured: one step of random images, timed.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil
from time import perf_counter
from typing import Literal

import numpy as np
import torch

from nasdeploy.core.cpus import bound_cpus, cpu_quota
from nasdeploy.core.randomness import generator
from nasdeploy.core.space import SearchSpace
from nasdeploy.data.inspect import FolderSummary
from nasdeploy.data.settings import AugmentSettings, DataSettings
from nasdeploy.initial_recipe.growing import LARGEST_SHARE, Growth, growth_within
from nasdeploy.nn.network import compute_device, keep_freed_memory, set_threads
from nasdeploy.spaces import load_space
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.tasks.classification import Classification
from nasdeploy.tasks.image_data import distillation_loss, label_loss
from nasdeploy.tasks.task import Objective
from nasdeploy.training.optimizer import layout_of, mixed_precision
from nasdeploy.training.sampling import draw
from nasdeploy.training.sandwich import LARGEST, SMALLEST, Sandwich, SandwichStep, StepComputation
from nasdeploy.training.settings import TrainSettings

_MOST_STEPS = 4
_ENOUGH_S = 10.0


def machine() -> str:
    """Return the processor that training would run on, in words."""
    if has_gpu():
        return torch.cuda.get_device_name()
    cores, quota = bound_cpus(), cpu_quota()
    limit = "" if quota is None else f" with a quota of {quota:g}"
    return f"{cores} CPU core{'' if cores == 1 else 's'}{limit}"


def has_gpu() -> bool:
    """Return whether training would run on a GPU."""
    return compute_device().type == "cuda"


def fast_format(size: int) -> Literal["none", "bf16", "fp16"]:
    """Return the format of autocast in which this machine trains best on images of a side in pixels.

    A GPU has one if it has units for products in it: with tiny images it waits for the host whatever it computes in.
    TF32 is never the best: GPUs that have it have bf16 as well.
    """
    if size <= _TINY or not has_gpu():
        return "none"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16"
    major, _ = torch.cuda.get_device_capability()
    return "fp16" if major >= _FIRST_TENSOR_CORES else "none"


_FIRST_TENSOR_CORES = 7
"""The major compute capability from which on GPUs multiply in fp16 much faster than in float32."""
Drawing = Callable[[SearchSpace, np.random.Generator], Sandwich]
"""Draws the networks of a step."""


def sandwich_rule(space: SearchSpace, rng: np.random.Generator) -> Sandwich:
    """Return the networks of a step as recipes have them by default."""
    return draw(space, TrainSettings().random_networks, rng)


def original_alone(space: SearchSpace, rng: np.random.Generator) -> Sandwich:
    """Return the largest network of a space as all that a step trains."""
    return Sandwich({LARGEST: (space.largest(),)})


def smallest_alone(space: SearchSpace, rng: np.random.Generator) -> Sandwich:
    """Return the smallest network of a space as all that a step trains."""
    return Sandwich({SMALLEST: (space.smallest(),)}, SMALLEST)


def seconds_per_image(space: SearchSpace, size: int, batch: int, drawing: Drawing = sandwich_rule) -> float:
    """Return time of a step by its images: the shortest of some steps of `batch` images, after one to warm up."""
    set_threads(None)
    keep_freed_memory()
    device = compute_device()
    settings = TrainSettings(autocast=fast_format(size))
    layout = layout_of(settings, device)
    images = torch.randn(batch, 3, size, size, device=device).to(memory_format=layout)
    labels = torch.zeros(batch, dtype=torch.long, device=device)
    supernet = Supernet(space).to(device).to(memory_format=layout)
    label = partial(label_loss, smoothing=settings.label_smoothing)
    objective = Objective(label, distillation_loss(settings.distillation))
    execution = StepComputation(precision=partial(mixed_precision, settings, device))
    step = SandwichStep(supernet, Classification(), objective, {}, execution=execution)
    times: list[float] = []
    while len(times) < _MOST_STEPS and (len(times) < 2 or sum(times) < _ENOUGH_S):
        start = perf_counter()
        # The losses that a step returns are numbers, so that its work on a GPU is done.
        step(drawing(space, generator(0, "speed", len(times))), (images,), labels)
        times.append(perf_counter() - start)
    return min(times[1:]) / batch


# Median shorter side in pixels up to which images go to the spaces `digits` and `cifar10`.
_TINY, _SMALL = 16, 48
_MOST_EPOCHS = 360
# With that many epochs of the sandwich rule a supernet learns from the beginning, as AlphaNet's does.
_ENOUGH_EPOCHS = 100
# A step runs four networks forward and, which takes twice as long, backward.
FORWARD_PASSES_A_STEP = 4 * 3
# AlphaNet's search: 20 rounds, the first of 512 architectures and the others of 256.
_FEWEST_EVALUATIONS, _MOST_EVALUATIONS = 100, 512 + 19 * 256
_SEARCH_SHARE = 0.5
# The standard error of the accuracy on as many images is below half a per cent.
_MOST_HELD_OUT = 10_000
_FEWEST_HELD_OUT = 500
"""The number of held-out images that suffices to rank networks (docs/pretrained.md): more only where there is time."""
_MANY_IMAGES = 100_000


@dataclass(frozen=True)
class Shape:
    """What follows from the size of the images: space, side to fetch at, shorter side before the crop, augmentation."""

    space: str
    size: int
    resize: int
    augment: AugmentSettings


@dataclass(frozen=True)
class ImageTimes:
    """Seconds of training for an image, by the networks of a step."""

    sandwich: float
    """The time by the sandwich rule."""
    largest: float
    """The time of the largest network alone."""
    smallest: float
    """The time of the smallest network alone."""

    @property
    def growing(self) -> float:
        """Seconds of the networks that grow from the smallest: it, and a random network or sometimes the largest.

        A random network takes what the sandwich rule does beside its ends; one that is drawn may be any.
        """
        random = (self.sandwich - self.largest - self.smallest) / TrainSettings().random_networks
        leading = LARGEST_SHARE * self.largest + (1 - LARGEST_SHARE) * max(random, self.smallest)
        return leading + self.smallest


@dataclass(frozen=True)
class Training:
    """How long and in which steps to train, what an epoch takes here in seconds, and the part of images held out."""

    images: int
    batch_size: int
    epochs: int
    epoch_s: float
    holdout: float
    growth: Growth | None = None
    """The phases, where there is too little time for all networks from the beginning."""

    @property
    def held_out(self) -> float:
        """The number of images that are held out."""
        return self.images * self.holdout / (1 - self.holdout)


@dataclass(frozen=True)
class SearchShape:
    """Sizes of recalibration and search, and what one evaluation takes here, in seconds."""

    batch_size: int
    batches: int
    parents: int
    rounds: int
    evaluation_s: float
    cuts: int = 0
    """The entries of the table of loss, where the strategy has one."""
    table_s: float = 0.0
    """The estimated seconds that measuring that table takes."""
    strategy: str = "evolution"

    @property
    def evaluations(self) -> int:
        """Architectures whose accuracy is measured."""
        return self.parents + (self.rounds - 1) * (self.parents // 2)


@dataclass(frozen=True)
class Draft:
    """Everything that a first recipe is written from; `machine` in words."""

    folder: FolderSummary
    shape: Shape
    training: Training
    search: SearchShape
    machine: str

    @property
    def name(self) -> str:
        """The folder's name as the name of a run."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", self.folder.path.absolute().name).strip("-._")
        return name or "images"

    @property
    def training_s(self) -> float:
        """Estimated time of the whole training."""
        return self.training.epochs * self.training.epoch_s

    @property
    def search_s(self) -> float:
        """Estimated time of the search's evaluations, and of its table of loss."""
        return self.search.evaluations * self.search.evaluation_s + self.search.table_s


def draft_for(folder: FolderSummary, hours: float) -> Draft:
    """Return a recipe whose training takes about `hours` here; times a few steps, which takes some seconds."""
    shape = shape_for(folder.sides[1])
    times = _time_images(shape, len(folder.classes))
    training = training_for(folder, shape, times, hours)
    return Draft(folder, shape, training, search_for(training, shape, times.sandwich, hours), machine())


def shape_for(side: int) -> Shape:
    """Return the shape for images whose shorter side has `side` pixels (the median)."""
    if side <= _SMALL:
        size = max(side, 8)
        augment = AugmentSettings(crop="pad", pad=max(1, size // 8))
        return Shape("digits" if side <= _TINY else "cifar10", size, size, augment)
    size = min(224, side // 16 * 16)
    return Shape("alphanet", size, round(size * 8 / 7), AugmentSettings(policy="v0-mstd0.5"))


def _time_images(shape: Shape, classes: int) -> ImageTimes:
    """Return seconds of training for one image, measured on this machine."""
    batch = 64 if has_gpu() else 2 if shape.space == "alphanet" else 32
    space = load_space(shape.space, classes)
    drawings = (sandwich_rule, original_alone, smallest_alone)
    return ImageTimes(*(seconds_per_image(space, shape.size, batch, drawing) for drawing in drawings))


def training_for(folder: FolderSummary, shape: Shape, times: ImageTimes, hours: float) -> Training:
    """Return epochs for `hours` of training, at least 2 and at most AlphaNet's 360; steps small enough to be many.

    Where the time is too short for 100 epochs of the sandwich rule, the smallest network is trained first.
    """
    images, holdout = _division(folder, shape, times.sandwich, 3600 * hours)
    largest = 256 if has_gpu() else 32 if shape.space == "alphanet" else 64
    batch_size = max(8, min(largest, 1 << max(0, images // 16).bit_length()))
    epoch_s = images * times.sandwich
    epochs = int(3600 * hours / epoch_s)
    if epochs >= _ENOUGH_EPOCHS:
        return Training(images, batch_size, min(_MOST_EPOCHS, epochs), epoch_s, holdout)
    found = growth_within(images * times.smallest, images * times.growing, 3600 * hours, images / batch_size)
    epochs = found.smallest + found.grown
    epoch_s = (found.smallest * found.smallest_s + found.grown * found.grown_s) / epochs
    return Training(images, batch_size, epochs, epoch_s, holdout, found)


def images_for(folder: FolderSummary) -> tuple[int, float]:
    """Return how many images are learned from, and the part that is held out before for the search's accuracy."""
    given = folder.images["train"] * (1.0 if folder.has_test else 1.0 - _default("test"))
    holdout = round(min(_default("holdout"), _MOST_HELD_OUT / given), 4)
    return round(given * (1 - holdout)), holdout


def divided(folder: FolderSummary, in_time: float) -> tuple[int, float]:
    """Return how many images are learned from, and the part held out.

    What the search has time to score is held out, `in_time` images, if that is enough, and no more than is usual.
    """
    images, holdout = images_for(folder)
    given = images / (1 - holdout)
    holdout = round(min(holdout, max(_FEWEST_HELD_OUT, in_time) / given), 4)
    return round(given * (1 - holdout)), holdout


def _division(folder: FolderSummary, shape: Shape, image_s: float, seconds: float) -> tuple[int, float]:
    """Return images to learn from, and the part held out, for a search that takes its share of `seconds`."""
    batch_size, batches = _calibration(images_for(folder)[0], shape)
    each_s = _SEARCH_SHARE * seconds / _FEWEST_EVALUATIONS
    return divided(folder, each_s * FORWARD_PASSES_A_STEP / image_s - batch_size * batches)


def _calibration(images: int, shape: Shape) -> tuple[int, int]:
    """Return the size and number of the batches that a network is recalibrated on during the search."""
    if images >= _MANY_IMAGES:
        return 256, 32
    return 128, max(2, min(8 if shape.space == "alphanet" else 16, ceil(2 * images / 128)))


def search_for(training: Training, shape: Shape, image_s: float, hours: float) -> SearchShape:
    """Return a search of AlphaNet's proportions that takes about half of `hours`, if that allows for 100
    evaluations."""
    batch_size, batches = _calibration(training.images, shape)
    evaluation_s = (batch_size * batches + training.held_out) * image_s / FORWARD_PASSES_A_STEP
    wanted = int(_SEARCH_SHARE * 3600 * hours / evaluation_s)
    evaluations = min(_MOST_EVALUATIONS, max(_FEWEST_EVALUATIONS, wanted))
    rounds = 20 if evaluations >= 2000 else 10
    # 2 parts in the first round and 1 in each other, half of it mutations and half crossovers.
    return SearchShape(batch_size, batches, 4 * ceil(evaluations / (rounds + 1) / 2), rounds, evaluation_s)


def _default(fraction: str) -> float:
    value: float = DataSettings.model_fields[fraction].default
    return value
