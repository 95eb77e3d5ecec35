"""The teacher that a recipe names: an earlier run, a model of torchvision, or an ONNX file."""

from collections.abc import Sequence
from pathlib import Path

import torch

from nasdeploy.errors import UserError
from nasdeploy.nn.rescale import rescale
from nasdeploy.recipe import Recipe, recipe_of, space_of
from nasdeploy.store.checkpoints import trained_weights
from nasdeploy.store.run import Run
from nasdeploy.supernet.extract import extract
from nasdeploy.supernet.supernet import input_side
from nasdeploy.supernet.weights import load_supernet
from nasdeploy.train.onnx_teacher import onnx_teacher
from nasdeploy.train.precision import layout_of
from nasdeploy.train.teacher import Teacher, require_fit, torchvision_teacher, without_gradient


def load_teacher(recipe: Recipe, classes: Sequence[str], batch: int, device: torch.device) -> Teacher | None:
    """The teacher for `batch` images a step; None if it is the largest network of the same step.

    It sees what the supernet sees: images fetched at `data.size`, augmented, normalised by `data.mean` and `data.std`.
    Raises `UserError`, before any training, for one that cannot be loaded or does not fit the data.
    """
    settings = recipe.train.distillation
    kind, _, name = settings.teacher.partition(":")
    if kind == "largest":
        return None
    if kind == "run":
        teacher = _run_teacher(Path(name), recipe, classes, device)
    elif kind == "torchvision":
        weights = Path(settings.teacher_weights or "")
        teacher = without_gradient(torchvision_teacher(name, weights, len(classes)).to(device))
    else:
        teacher = onnx_teacher(Path(name), batch, recipe.train.threads, len(classes))
    side = recipe.data.size
    require_fit(teacher, settings.teacher, torch.zeros(batch, 3, side, side, device=device), len(classes))
    return teacher


def _run_teacher(directory: Path, recipe: Recipe, classes: Sequence[str], device: torch.device) -> Teacher:
    """The largest network of a run whose training is finished, normalising by batch statistics (once-for-all)."""
    run = Run.open(directory)
    weights = trained_weights(run)
    if run.manifest.classes != tuple(classes):
        learned, found = ", ".join(run.manifest.classes), ", ".join(classes)
        raise UserError(f"teacher run:{directory}: it learned the classes {learned}, and the data have {found}")
    theirs = recipe_of(run).data
    if (theirs.mean, theirs.std) != (recipe.data.mean, recipe.data.std):
        raise UserError(
            f"teacher run:{directory}: its images were normalised by mean {list(theirs.mean)} and std "
            f"{list(theirs.std)}; set data.mean and data.std to that"
        )
    space = space_of(run)
    supernet = load_supernet(weights.path, space)
    network = extract(supernet, space.largest()).to(device).to(memory_format=layout_of(recipe.train, device)).train()
    network.requires_grad_(False)
    side = input_side(network.plan)
    return without_gradient(lambda images: network(rescale(images, side)))
