"""The teacher that a recipe names: an earlier run, a model of torchvision, or an ONNX file; loaded, and tried."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nasdeploy.core.errors import UserError
from nasdeploy.data.images import ImageSets
from nasdeploy.data.transforms import draw_sample
from nasdeploy.distributed.ranks import Ranks
from nasdeploy.nn.functional import rescale
from nasdeploy.recipe import Recipe, recipe_of, space_of
from nasdeploy.store.checkpoints import trained_weights
from nasdeploy.store.run import Run
from nasdeploy.supernet.supernet import extract, input_side
from nasdeploy.supernet.weights import load_supernet
from nasdeploy.tasks import task_of
from nasdeploy.tasks.image_data import ImageData
from nasdeploy.tasks.metrics import TOP1
from nasdeploy.tasks.task import TaskData
from nasdeploy.training.onnx_teacher import onnx_teacher
from nasdeploy.training.optimizer import layout_of, mixed_precision
from nasdeploy.training.step_settings import ORIGINAL
from nasdeploy.training.teacher import (
    ReadTeacher,
    Teacher,
    not_finite,
    require_fit,
    torchvision_teacher,
    without_gradient,
)
from nasdeploy.training.trial import Classifier, Normalisation, Reading, Trial, columns, try_classifier


def open_teachers(
    recipe: Recipe, data: TaskData, batch: int, ranks: Ranks
) -> tuple[list[Teacher | None], dict[str, Trial]]:
    """Return the teacher of each phase, see `open_teacher`, and by name how the first process found those to do."""
    opened: dict[tuple[Any, ...], Teacher | None] = {}
    teachers, trials = [], {}
    for settings in recipe.train.of_phases:
        read = settings.distillation.teacher_as_read
        if read not in opened:
            of_phase = recipe.model_copy(update={"train": settings})
            opened[read], trial = open_teacher(of_phase, data, batch, ranks)
            if trial is not None:
                trials[settings.distillation.teacher] = trial
        teachers.append(opened[read])
    return teachers, trials


def open_teacher(recipe: Recipe, data: TaskData, batch: int, ranks: Ranks) -> tuple[Teacher | None, Trial | None]:
    """Return the recipe's teacher for `batch` samples a step, and how the first process found a classifier to do.

    There is none yet if it is the largest network, of the same step or as an earlier phase leaves it. Raises
    `UserError`, before any training, for one that cannot be loaded, does not fit the data, or has nothing to teach.
    """
    if not isinstance(data, ImageData):
        return _other_teacher(recipe, data, ranks), None
    teacher = load_teacher(recipe, data.labels, batch, ranks.device)
    if teacher is None or not ranks.first:
        return teacher, None
    return teacher, try_teacher(teacher, recipe, data.sets, batch, ranks.device)


def _other_teacher(recipe: Recipe, data: TaskData, ranks: Ranks) -> Teacher | None:
    """Return the teacher of another task than one of images: the largest network of a run of the same task."""
    name = recipe.train.distillation.teacher
    kind, _, directory = name.partition(":")
    if kind in ("largest", ORIGINAL):
        return None
    if kind != "run":
        raise UserError(f"teacher {name}: task {recipe.task} learns from runs alone; choose run:DIR, or largest")
    run = Run.open(Path(directory))
    if recipe_of(run).task != recipe.task or run.manifest.classes != data.labels:
        raise UserError(f"teacher {name}: it learned another task, or other labels; choose another teacher")
    space = space_of(run)
    supernet = load_supernet(trained_weights(run).path, space).to(ranks.device).requires_grad_(False)
    largest, task = supernet.bind(space.largest()), task_of(recipe.task)
    return without_gradient(lambda *inputs: task.outputs(largest, inputs))


def load_teacher(recipe: Recipe, classes: Sequence[str], batch: int, device: torch.device) -> ReadTeacher | None:
    """Return the teacher for `batch` images a step; None if it is the supernet's largest network.

    It sees what the supernet sees: images fetched at `data.size`, augmented, normalised by `data.mean` and `data.std`
    unless it has a mean and deviation of its own. Raises `UserError`, before any training, for one that cannot be
    loaded or does not fit the data.
    """
    settings = recipe.train.distillation
    kind, _, name = settings.teacher.partition(":")
    if kind in ("largest", ORIGINAL):
        return None
    reading, given = _reading(recipe), Normalisation(recipe.images.mean, recipe.images.std)
    order = columns(reading.order, classes)
    classifier: Classifier
    if kind == "run":
        classifier = _run_teacher(Path(name), recipe, classes, device)
    elif kind == "torchvision":
        weights = Path(settings.teacher_weights or "")
        classifier = without_gradient(torchvision_teacher(name, weights, len(classes)).to(device))
    else:
        classifier = onnx_teacher(Path(name), batch, recipe.train.threads, len(classes))
    side = recipe.images.size
    require_fit(classifier, settings.teacher, torch.zeros(batch, 3, side, side, device=device), len(classes))
    return ReadTeacher(classifier, given, reading, order)


def try_teacher(teacher: ReadTeacher, recipe: Recipe, sets: ImageSets, batch: int, device: torch.device) -> Trial:
    """Return how a teacher does on some training images, in a few seconds.

    Raises `UserError` for one that knows nothing, gives no numbers, or would be right if it were read otherwise, with
    the settings that do so.
    """
    settings = recipe.train.distillation

    def classifier(images: Tensor) -> Tensor:
        with mixed_precision(recipe.train, device):
            return teacher.classifier(images.to(device, memory_format=layout_of(recipe.train, device)))

    sample = draw_sample(sets.train, sets.classes, recipe.images, recipe.seed)
    a_run = settings.teacher.startswith("run:")
    trial = try_classifier(
        classifier,
        sample,
        teacher.reading,
        batch,
        normalised=a_run or settings.teacher_mean is not None,
        ordered=a_run or settings.teacher_classes is not None,
    )
    if trial.broken:
        raise not_finite(settings.teacher, trial.broken, f"{trial.images} training images", recipe.train.autocast)
    if trial.better is not None or not trial.knows:
        remedy = _OTHER_RUN if a_run else _OTHER_READING
        raise UserError(f"teacher {settings.teacher}: {_doubt(trial, teacher.reading, remedy)}")
    return trial


def described(name: str, trial: Trial) -> str:
    """Return a line that tells the outcome."""
    return f"teacher: {name}, {_accuracy(trial.right, trial.images)}"


_OTHER_RUN = "train it for longer, or choose another"
_OTHER_READING = (
    "choose another, or write the names of its classes in its order in train.distillation.teacher_classes, and what it "
    "normalises by in teacher_mean and teacher_std"
)


def _doubt(trial: Trial, reading: Reading, remedy: str) -> str:
    now = f"{_accuracy(trial.right, trial.images)}"
    if not trial.knows:
        now += f", where guessing has {100 * trial.chance:.1f} %"
    if trial.kind == "constant":
        now += ", and the same numbers for all of them"
    if trial.better is None:
        return f"{now}: there is nothing to learn from it; {remedy}"
    if trial.better.probabilities != reading.probabilities:
        now = f"gives {'probabilities' if trial.better.probabilities else 'logits'}, and has {now}"
    changes = " ".join(f"`set={shlex.quote(change)}`" for change in _changes(reading, trial.better))
    then = f"{100 * trial.better_right / trial.better_images:.1f} %"
    keep = ", or write the present values there to keep them" if trial.knows else ""
    return f"{now}; it has {then} with {changes}: add that{keep}"


def _accuracy(right: int, images: int) -> str:
    metric = replace(TOP1, decimals=1)
    return f"{metric.name} {metric.text(right / images)} on {images} training {metric.samples}"


def _reading(recipe: Recipe) -> Reading:
    settings, data = recipe.train.distillation, recipe.images
    normalisation = Normalisation(settings.teacher_mean or data.mean, settings.teacher_std or data.std)
    return Reading(normalisation, settings.teacher_classes, settings.teacher_outputs == "probabilities")


def _changes(before: Reading, now: Reading) -> list[str]:
    """Return what to set for another reading, as `--set` takes it."""
    changes = {}
    if now.order != before.order:
        changes["classes"] = now.order if isinstance(now.order, str) else json.dumps(now.order, ensure_ascii=False)
    if now.probabilities != before.probabilities:
        changes["outputs"] = "probabilities" if now.probabilities else "logits"
    if now.normalisation != before.normalisation:
        changes["mean"] = json.dumps(now.normalisation.mean)
        changes["std"] = json.dumps(now.normalisation.std)
    return [f"train.distillation.teacher_{key}={value}" for key, value in changes.items()]


def _run_teacher(directory: Path, recipe: Recipe, classes: Sequence[str], device: torch.device) -> Classifier:
    """Return the largest network of a run that is finished, normalising by batch statistics (once-for-all)."""
    run = Run.open(directory)
    weights = trained_weights(run)
    if run.manifest.classes != tuple(classes):
        learned, found = ", ".join(run.manifest.classes), ", ".join(classes)
        raise UserError(f"teacher run:{directory}: it learned the classes {learned}, and the data have {found}")
    theirs, expected = recipe_of(run).images, _reading(recipe).normalisation
    if (theirs.mean, theirs.std) != (expected.mean, expected.std):
        raise UserError(
            f"teacher run:{directory}: its images were normalised by mean {list(theirs.mean)} and std "
            f"{list(theirs.std)}; set train.distillation.teacher_mean and teacher_std to that"
        )
    if theirs.range != recipe.images.range:
        raise UserError(
            f"teacher run:{directory}: it learned with data.range {json.dumps(theirs.range)}, and here it is "
            f"{json.dumps(recipe.images.range)}; set data.range to that of the teacher"
        )
    space = space_of(run)
    supernet = load_supernet(weights.path, space)
    network = extract(supernet, space.largest()).to(device).to(memory_format=layout_of(recipe.train, device)).train()
    network.requires_grad_(False)
    side = input_side(network.plan)
    return without_gradient(lambda images: network(rescale(images, side)))
