"""Why a training step has a loss or a gradient that is not finite: its images, its teacher, its networks, its loss."""

from math import isfinite

import torch
from torch import Tensor

from nasdeploy.core.arch import Arch
from nasdeploy.training.sandwich import Losses, Sandwich, SandwichStep
from nasdeploy.training.skips import Cause

_ANEW = "start anew with --restart"


def broken_rows(step: SandwichStep, images: Tensor) -> list[int]:
    """For which images of a batch the step's teacher, if it has one of its own, gives numbers that are not finite."""
    if step.teacher is None:
        return []
    with step.precision():
        logits = step.teacher(images)
    rows: list[int] = (~logits.isfinite().all(1)).nonzero().flatten().tolist()
    return rows


def cause_of(
    step: SandwichStep, sandwich: Sandwich, images: Tensor, losses: Losses, *, first: bool, autocast: str
) -> Cause:
    """What is not finite in a step on `images`, of a sound teacher; `first` if no step was made before it.

    All processes have to ask together, with losses averaged over them.
    """
    if not bool(images.isfinite().all()):
        return Cause("images that are not finite", "check data.mean and data.std")
    found = _first_broken(sandwich, losses)
    if found is None:
        return Cause("gradient", _calmer(first, autocast))
    role, archs = found
    kind, names = step.loss_of(role), f"{role} network" + ("s" if role == "random" else "")
    if not all(_finite(step, images, arch) for arch in archs):
        return Cause(f"{kind} loss of the {names}, whose outputs were not finite", _calmer(first, autocast))
    if kind == "label":
        return Cause(f"label loss of the {names}", _calmer(first, autocast))
    return Cause(
        f"{kind} loss of the {names}, though their outputs were finite",
        f"change train.distillation (kind, temperature, alpha_min, alpha_max, clip) and {_ANEW}",
    )


def _first_broken(sandwich: Sandwich, losses: Losses) -> tuple[str, tuple[Arch, ...]] | None:
    """The role whose loss is not finite, the first in the order in which they are computed, and its networks."""
    smallest = () if sandwich.smallest is None else (sandwich.smallest,)
    for role, loss, archs in (
        ("largest", losses.largest, (sandwich.largest,)),
        ("random", losses.random, sandwich.random),
        ("smallest", losses.smallest, smallest),
    ):
        if loss is not None and not isfinite(loss):
            return role, archs
    return None


def _finite(step: SandwichStep, images: Tensor, arch: Arch) -> bool:
    with torch.no_grad():
        return bool(step.logits(images, arch).isfinite().all())


def _calmer(first: bool, autocast: str) -> str:
    """What to do about weights that have grown too large, or in a first step cannot have."""
    exact = "" if autocast == "none" else f", or set train.autocast=none in place of {autocast},"
    if first:
        return f"no step was made before, so that it lies in the weights: start from others (--init){exact} and {_ANEW}"
    return f"lower train.learning_rate{exact} and {_ANEW}"
