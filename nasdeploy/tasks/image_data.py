"""Labelled images as the data of a task, and the accuracy of a network on them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nasdeploy.core.plan import Plan
from nasdeploy.core.randomness import generator
from nasdeploy.core.score import Score, proportion
from nasdeploy.data.batches import (
    CalibrationBatches,
    HeldOutImages,
    Memory,
    PreparedBatches,
    TrainingBatches,
    calibration_batches,
    class_weights,
    evaluation_batches,
)
from nasdeploy.data.datasets import read_data
from nasdeploy.data.images import ImageSets, readable
from nasdeploy.data.recorded_split import split_content
from nasdeploy.data.settings import DataSettings
from nasdeploy.data.split import split_sets
from nasdeploy.store.run import Run
from nasdeploy.tasks.metrics import TOP1
from nasdeploy.tasks.same_images import sets_of_run
from nasdeploy.tasks.task import Batch, CalibrationInputs, HeldOutSamples, Inputs, TaskData

_CPU = torch.device("cpu")


class ImageData(TaskData):
    """Labelled images of a folder, shards or a named data set, opened and split."""

    advice = "check data.mean and data.std"

    def __init__(self, sets: ImageSets, settings: DataSettings) -> None:
        self.sets, self.settings = sets, settings
        self.outputs, self.labels, self.notes = len(sets.classes), sets.classes, sets.notes
        self.train_samples = len(sets.train)

    @classmethod
    def open(cls, settings: DataSettings, seed: int, run: Run | None) -> "ImageData":
        """Return the images that the settings name; see `Task.open`."""
        data = read_data(settings)
        if run is not None:
            return cls(sets_of_run(run, settings, seed, data), settings)
        return cls(split_sets(data, settings, seed), settings)

    def record(self) -> Mapping[str, Any]:
        """Return the classes, and path, digest, class and use of every image; see `TaskData.record`."""
        made = self.sets.split
        return {
            "classes": self.sets.classes,
            "images": self.sets.fingerprint,
            "data": (made.facts, split_content(made)),
        }

    @cached_property
    def class_weights(self) -> Tensor | None:
        """Weights `[classes]` of the label loss, where the settings balance classes by it."""
        if self.settings.balance != "loss":
            return None
        return torch.from_numpy(class_weights(self.sets.train.labels, self.outputs)).float()

    def train_batches(
        self,
        batch_size: int,
        seed: int,
        position: tuple[int, int],
        share: tuple[int, int] = (0, 1),
        device: torch.device | None = None,
    ) -> Iterator[Batch]:
        """Yield augmented images `[N, 3, size, size]` and labels `[N]`; see `TaskData.train_batches`."""
        epoch, start = position
        batches = TrainingBatches(self.sets.train, self.settings, batch_size, seed, share, device or _CPU)
        return _as_batches(batches.epoch(epoch, start))

    def validation(self, batch_size: int) -> Iterator[Batch]:
        """Yield validation images and labels, in order."""
        return _as_batches(evaluation_batches(self.sets.val, self.settings, batch_size))

    def test(self, batch_size: int) -> Iterator[Batch]:
        """Yield test images and labels, in order."""
        return _as_batches(evaluation_batches(self.sets.test, self.settings, batch_size))

    def calibration(
        self,
        batch_size: int,
        count: int,
        seed: int,
        device: torch.device | None = None,
        memory: Memory | None = None,
    ) -> "ImageCalibration":
        """Return batches of training images with the training augmentation; see `TaskData.calibration`."""
        batches = calibration_batches(self.sets.train, self.settings, batch_size, count, seed)
        return ImageCalibration(batches.to(device or _CPU), self.settings, memory or Memory(0))

    def held_out(
        self, batch_size: int, seed: int | None, device: torch.device, memory: Memory | None
    ) -> "SearchImages":
        """Return the images that were held out for the search; see `TaskData.held_out`."""
        found = readable(self.sets.search, self.settings)
        images = found.images
        if seed is not None:
            images = images.subset(generator(seed, "held-out order").permutation(len(images)).tolist())
        kept = HeldOutImages(images, self.settings, batch_size, device, memory or Memory(0))
        return SearchImages(kept, found.unreadable)

    def names(self, batch_size: int, seed: int, position: tuple[int, int], share: tuple[int, int]) -> list[str]:
        """Return the files of the images of a training batch, or their places where they have none."""
        batches = TrainingBatches(self.sets.train, self.settings, batch_size, seed, share)
        return batches.names(*position, self.sets.classes)


class ImageCalibration(CalibrationInputs):
    """Batches of training images, kept as bytes; rescaled for each plan once, while there is memory for that."""

    def __init__(self, batches: CalibrationBatches, settings: DataSettings, memory: Memory) -> None:
        self.samples = sum(map(len, batches.pixels))
        self._prepared = PreparedBatches(batches.pixels, settings, memory)

    def __call__(self, plan: Plan) -> Iterator[Inputs]:
        """Yield images `[N, 3, side, side]` of the plan's side."""
        return ((images,) for images in self._prepared.at(side_of(plan)))


class SearchImages(HeldOutSamples):
    """Images that were held out for the search."""

    def __init__(self, images: HeldOutImages, unreadable: int) -> None:
        self._images, self.unreadable = images, unreadable

    def __len__(self) -> int:
        return len(self._images)

    def __call__(self, plan: Plan, first: int = 0, end: int | None = None) -> Iterator[Batch]:
        """Yield images, of the plan's side where they are kept in memory, and labels `[N]`."""
        return _as_batches(self._images.at(side_of(plan), first, end))


def side_of(plan: Plan) -> int:
    """Return the side in pixels of the square images that a plan's one input takes."""
    ((_, pictures),) = plan.only.inputs
    return pictures.shape[-1]


def _as_batches(found: Iterable[tuple[Tensor, Tensor]]) -> Iterator[Batch]:
    return (((images,), labels) for images, labels in found)


def score_of(logits_of: Callable[[Inputs], Tensor], batches: Iterable[Batch]) -> Score:
    """Return top-1 and mean cross-entropy of logits `[N, classes]`; raises ValueError without a single image.

    Logits that are not finite are no answer: they count as wrong, whatever the largest of them is.
    """
    correct, loss, count = 0, 0.0, 0
    with torch.no_grad():
        for inputs, labels in batches:
            logits, labels = logits_of(inputs).float().cpu(), labels.cpu()
            right = (logits.argmax(1) == labels) & logits.isfinite().all(1)
            correct += int(right.sum())
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            count += len(labels)
    if not count:
        raise ValueError("no images to score on")
    return proportion(TOP1, correct, count, loss / count)
