"""Labelled images as the data of a task, the accuracy of a network on them, and the losses of learning from them.

The images of a run are those that it was begun with, for what they were for then: otherwise labels would mean something
else, and images that taught would be tested on. Losses are in float32 or float64 also under autocast, and finite for
extreme logits.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from math import log
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from nasdeploy.core.errors import UserError
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
from nasdeploy.data.inventory import OpenedData
from nasdeploy.data.settings import DataSettings
from nasdeploy.data.split import changes, load_split, sets_of, split_content, split_sets
from nasdeploy.store.run import RememberedData, Run
from nasdeploy.tasks.metrics import TOP1
from nasdeploy.tasks.task import Batch, CalibrationInputs, HeldOutSamples, Inputs, TaskData

if TYPE_CHECKING:
    from nasdeploy.training.step_settings import DistillationSettings


def sets_of_run(run: Run, settings: DataSettings, seed: int, data: OpenedData) -> ImageSets:
    """Opened data, split as it was when the run was begun; raises `UserError` unless it is the same.

    A run that was begun without data, by the import of weights, knows how many classes there are, and splits anew.
    """
    learned = run.manifest.classes
    if not learned and len(data.classes) == run.manifest.output_size:
        return _split_anew(run, settings, seed, data)
    if not learned:
        raise UserError(
            f"data: {len(data.classes)} classes, and the weights that {run.path} was imported with tell "
            f"{run.manifest.output_size} apart; give the folder of the images that they learned with `data`"
        )
    if data.classes != learned:
        missing, new = (sorted(set(a) - set(b)) for a, b in ((learned, data.classes), (data.classes, learned)))
        differing = [f"{word} {_some(names)}" for word, names in (("without", missing), ("with", new)) if names]
        if not differing:
            # What is not ASCII sorted otherwise when names were kept as the file system wrote them.
            raise UserError(
                f"data: the classes have another order than when {run.path} was begun, so that labels would mean "
                "something else; train another run, or go on with the version of nasdeploy that began it"
            )
        raise UserError(
            f"data: the classes are not those that {run.path} learned ({', '.join(differing)}); "
            "restore the data that it was trained on"
        )
    return _split_anew(run, settings, seed, data) if run.manifest.data is None else _split_as_then(run, data)


def _split_as_then(run: Run, data: OpenedData) -> ImageSets:
    assert run.manifest.data is not None
    known = load_split(run.split, len(data.classes), run.manifest.data)
    sets = sets_of(data, known)
    if sets is None:
        raise UserError(
            f"data: these are not the images that {run.path} was begun with, {changes(known, data.inventory)}; restore "
            "them, give the folder that holds them with `data`, or train another run"
        )
    return sets


def _split_anew(run: Run, settings: DataSettings, seed: int, data: OpenedData) -> ImageSets:
    """Return the sets of a run of an earlier version, which knows the names and labels of its training images at
    most."""
    sets, images = split_sets(data, settings, seed), run.manifest.images
    if images is not None and images != sets.fingerprint:
        raise UserError(
            f"data: the training images are not those that {run.path} was begun with ({sets.fingerprint}, not {images} "
            "as then), so that some of those it learned would be tested on; restore them, or train another run"
        )
    return sets


def _some(names: Iterable[str]) -> str:
    """Return the first of some names, and how many more there are."""
    first, *more = names
    return f"{first} and {len(more)} more" if more else first


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

    def record(self) -> RememberedData:
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
    """Return top-1 and mean cross-entropy of what computes logits `[N, classes]` of images; see `score_logits`."""
    return score_logits((logits_of(inputs), labels) for inputs, labels in batches)


def score_logits(batches: Iterable[tuple[Tensor, Tensor]]) -> Score:
    """Return top-1 and mean cross-entropy of logits `[N, classes]`; raises ValueError without a single image.

    Logits that are not finite are no answer: they count as wrong, whatever the largest of them is.
    """
    correct, loss, count = 0, 0.0, 0
    with torch.no_grad():
        for computed, labels in batches:
            logits, labels = computed.float().cpu(), labels.cpu()
            correct += int(_right(logits, labels).sum())
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            count += len(labels)
    if not count:
        raise ValueError("no images to score on")
    return proportion(TOP1, correct, count, loss / count)


def sample_scores(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return whether logits `[N, classes]` are right, as 1 and 0, and their cross-entropy, of each image `[N]`."""
    computed, labels = logits.float().cpu(), labels.cpu()
    return _right(computed, labels).float(), F.cross_entropy(computed, labels, reduction="none")


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(1) == labels) & logits.isfinite().all(1)


Distillation = Callable[[Tensor, Tensor], Tensor]
"""The function from student and teacher logits `[N, classes]` to a scalar loss."""


def label_loss(logits: Tensor, labels: Tensor, smoothing: float, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy with label smoothing, mean over the batch of logits `[N, classes]` and labels `[N]`.

    With `class_weights` `[classes]` each image's loss is weighted as by `torch.nn.functional.cross_entropy`; the sum is
    divided by N and not, as there, by the weights in the batch: parts of a batch on several processes then average to
    the whole, and a batch of one class is not weighted up.
    """
    exact = _exact(logits)
    if class_weights is None:
        return F.cross_entropy(exact, labels, label_smoothing=smoothing)
    weights = class_weights.to(exact.dtype)
    return F.cross_entropy(exact, labels, weights, reduction="sum", label_smoothing=smoothing) / len(labels)


def kl_divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(p(T) || q(T)) of teacher p and student q, mean over the batch of logits `[N, classes]`.

    AlphaNet, appendix C, Eq. 8; with temperature T = 1 it is Eq. 7.
    """
    log_p = F.log_softmax(_exact(teacher.detach()) / temperature, dim=1)
    log_q = F.log_softmax(_exact(student) / temperature, dim=1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def soft_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy of the student's probabilities with the teacher's, mean over the batch of logits `[N, classes]`.

    It is once-for-all's distillation: the Kullback-Leibler divergence plus the teacher's entropy.
    """
    return F.cross_entropy(_exact(student), F.softmax(_exact(teacher.detach()), dim=1))


def alpha_divergence(log_p: Tensor, log_q: Tensor, alpha: float, clip: float) -> tuple[Tensor, Tensor]:
    """The divergence D `[N]` and its surrogate loss `[N]` for log-probabilities `[N, classes]` (AlphaNet, section 3).

    The importance weights (p / q)^alpha are clipped at `clip`, except for alpha = 1, which is the KL divergence. Only
    the surrogate has a gradient. Products q * (p / q) are taken as p, so nothing overflows where q underflows.
    """
    p, q, log_ratio = log_p.exp(), log_q.exp().detach(), (log_p - log_q).detach()
    if alpha == 1.0:
        divergence, weight = p * log_ratio, p
    elif alpha == 0.0:
        log_ratio = log_ratio.clamp(max=log(clip))
        divergence, weight = -q * log_ratio, q * (log_ratio - 1.0)
    else:
        clipped, constant = (alpha * log_ratio).clamp(max=log(clip)).exp(), 1.0 / (alpha * (alpha - 1.0))
        divergence, weight = q * constant * (clipped - 1.0), q * (clipped / alpha + constant)
    return divergence.sum(1), -(weight * log_q).sum(1)


def adaptive_alpha_divergence(
    student: Tensor, teacher: Tensor, alpha_min: float, alpha_max: float, clip: float
) -> Tensor:
    """Per sample the surrogate of whichever alpha has the larger divergence, mean over the batch (AlphaNet, Eq. 6).

    A tie takes `alpha_max`. Logits are `[N, classes]`.
    """
    log_p = F.log_softmax(_exact(teacher.detach()), dim=1)
    log_q = F.log_softmax(_exact(student), dim=1)
    low, low_loss = alpha_divergence(log_p, log_q, alpha_min, clip)
    high, high_loss = alpha_divergence(log_p, log_q, alpha_max, clip)
    return torch.where(high >= low, high_loss, low_loss).mean()


def distillation_loss(settings: "DistillationSettings") -> Distillation | None:
    """Return the distillation that the settings name; None if sub-networks learn from the labels."""
    if settings.kind == "none":
        return None
    if settings.kind == "cross-entropy":
        return soft_cross_entropy
    if settings.kind == "kl":
        return partial(kl_divergence, temperature=settings.temperature)
    return partial(
        adaptive_alpha_divergence,
        alpha_min=settings.alpha_min,
        alpha_max=settings.alpha_max,
        clip=settings.clip,
    )


def _exact(logits: Tensor) -> Tensor:
    """Logits in float32 at least: half precision has too few digits, and autocast would choose it."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
