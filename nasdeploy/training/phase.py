"""One phase of a training, ready to be gone through."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import torch

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError, lookup
from nasdeploy.core.plan import Block
from nasdeploy.core.space import SearchSpace
from nasdeploy.supernet.growth import require_growing
from nasdeploy.supernet.importance import CRITERIA
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.training.optimizer import classifier_parameters
from nasdeploy.training.sampling import Sampler
from nasdeploy.training.settings import TrainSettings
from nasdeploy.training.teacher import Teacher


@dataclass(frozen=True)
class Phase:
    """What a phase needs, found to be right before anything is trained."""

    name: str | None
    """The name in the recipe; None for the only phase of a training without phases."""
    settings: TrainSettings
    """The settings of the phase, with its epochs."""
    sampler: Sampler
    to_validate: Mapping[str, Arch]
    """The networks to validate, by name."""
    teacher: Teacher | None = None
    """The teacher from outside the supernet; None if it is in the supernet, or left by an earlier phase."""


def trained_blocks(space: SearchSpace, phases: Sequence[Phase], ended: Sequence[int]) -> dict[str, set[Block]]:
    """Return the blocks that the first phases trained, by the slot whose weights they have.

    `ended` are the numbers of epochs at which these phases ended, counted from the beginning of the first one.
    """
    epochs = [end - began for began, end in pairwise((0, *ended))]
    went = [(phase, count) for phase, count in zip(phases, epochs, strict=False) if phase.settings.trains == "all"]
    allowed = [values for phase, count in went if count for values in phase.sampler.allowed(count)]
    found: defaultdict[str, set[Block]] = defaultdict(set)
    for slot in space.slots:
        for values in {tuple(one[name] for name in slot.reads) for one in allowed}:
            blocks = (space.block_at(slot, dict(zip(slot.reads, each, strict=True))) for each in product(*values))
            found[slot.weights or slot.name].update(block for block in blocks if block is not None)
    return found


def require_trainable(settings: TrainSettings, space: SearchSpace, *, started: bool) -> None:
    """Raise `UserError` if a phase asks for what is not there: an order of channels, a classifier, room to grow.

    `started`: whether the training begins with weights that were trained elsewhere.
    """
    if settings.sort_channels is not None:
        lookup("criterion in train.sort_channels", CRITERIA, settings.sort_channels)
    if settings.grow and started:
        raise UserError(
            "train.grow: what no phase has trained becomes zero, and this training starts from weights; leave it out"
        )
    if settings.grow:
        require_growing(space)
    if settings.trains == "all" and settings.classifier_rate == 1.0:
        return
    with torch.device("meta"):
        supernet = Supernet(space)
    if not classifier_parameters(supernet):
        key = "classifier_rate" if settings.trains == "all" else "trains: classifier"
        raise UserError(f"train.{key}: space {space.name} has no classifier; leave it out")
