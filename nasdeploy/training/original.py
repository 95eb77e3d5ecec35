"""The original of a training: its largest network as the phases left it that trained that network alone.

It is recalibrated and kept in the run before anything else changes the supernet, and may teach all networks from then
on: frozen, by statistics of its own or by those of each batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import nn

from nasdeploy.core import cost_registry
from nasdeploy.core.arch import Arch
from nasdeploy.core.costs import Costs
from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.core.randomness import generator
from nasdeploy.core.score import Score
from nasdeploy.core.space import SearchSpace
from nasdeploy.store.checkpoints import WeightsFacts
from nasdeploy.store.networks import HeldOutScore, NetworkFacts, kept_original, networks_directory
from nasdeploy.store.run import Run
from nasdeploy.supernet.evaluate import Evaluator
from nasdeploy.supernet.networks import keep_network, load_network
from nasdeploy.supernet.settings import RecalibrationSettings
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.tasks.task import CalibrationInputs, Task, TaskData
from nasdeploy.training.step_settings import DistillationSettings
from nasdeploy.training.teacher import SizedTeacher, Teacher, without_gradient

_SHARES = (0.75, 0.5, 0.25)
"""The shares of the largest network's MACs of the networks that are sliced to see what they reach."""
_ENOUGH = 1000
"""The most samples that they are scored on: a glance, which must not take long."""
_DRAWN = 2000
"""The number of uniform networks among which the nearest to these shares are looked for."""


@dataclass(frozen=True)
class HeldOutScoring:
    """How networks of a training are recalibrated, and scored on the samples that are held out for the search."""

    task: Task
    data: TaskData
    recalibration: RecalibrationSettings
    seed: int
    device: torch.device

    @cached_property
    def calibration(self) -> CalibrationInputs:
        """The batches that statistics are computed over."""
        settings = self.recalibration
        return self.data.calibration(settings.batch_size, settings.search_batches, self.seed, self.device)

    def of(self, supernet: Supernet) -> Evaluator:
        """Return what scores the networks of a supernet."""
        # In an order in which the first ones stand for all.
        held_out = self.data.held_out(self.recalibration.batch_size, self.seed, self.device, None)
        samples = len(held_out) if self.task.metric.is_mean else 0
        found = Evaluator(supernet, self.task, self.calibration, held_out, samples)
        return found.averaging(self.recalibration.average)


def keep_original(run: Run, evaluator: Evaluator, space: SearchSpace, checkpoint: WeightsFacts) -> Score:
    """Keep the largest network of a supernet, recalibrated, as the original of a run; return its held-out score.

    `checkpoint` is where the supernet's weights lie. One that was kept from there before stays as it is.
    """
    kept, metric = kept_original(run), evaluator.task.metric
    if kept is not None and kept.record.checkpoint == checkpoint and kept.record.after is not None:
        return kept.record.after.score(metric)
    network = evaluator.network(space.largest())
    score = evaluator.score_of(network)
    facts = NetworkFacts(kind="original", epochs=checkpoint.epoch, checkpoint=checkpoint, after=HeldOutScore.of(score))
    keep_network(run, space.largest(), network, facts)
    return score


def say_kept(score: Score, progress: Progress) -> None:
    """Tell what the original reaches."""
    metric = replace(score.metric, decimals=1)
    progress.say(
        f"train: the original is kept: {metric.name} {metric.text(score.value)} on {score.samples} held-out "
        f"training {metric.samples}"
    )


def say_sliced(evaluator: Evaluator, space: SearchSpace, seed: int, progress: Progress) -> None:
    """Tell what smaller networks reach that are merely cut out of it, before any of them is trained."""
    metric = replace(evaluator.task.metric, decimals=1)
    end = _ENOUGH if evaluator.samples > _ENOUGH else None
    found = {share: evaluator(arch, 0, end) for share, arch in sliced(space, seed).items()}
    told = ", ".join(f"{metric.text(score.value)} with {100 * share:.0f} %" for share, score in found.items())
    if told:
        progress.say(f"train: networks merely sliced out of it have {metric.name} {told} of its MACs")


def sliced(space: SearchSpace, seed: int) -> Mapping[float, Arch]:
    """Return a few smaller networks by their share of the largest one's MACs, the largest of them first."""
    drawn = space.canonical(space.sample_codes(_DRAWN, generator(seed, "sliced")))
    codes = np.concatenate([drawn, space.encode([space.smallest(), space.largest()])])
    macs = Costs(space, [cost_registry.macs])(codes)[:, 0]
    shares = macs / macs[-1]
    nearest = (int(np.abs(shares - wanted).argmin()) for wanted in _SHARES)
    return {float(shares[place]): space.decode(codes[place : place + 1])[0] for place in nearest if shares[place] < 1.0}


def teacher_of(
    run: Run,
    space: SearchSpace,
    task: Task,
    device: torch.device,
    layout: torch.memory_format,
    settings: DistillationSettings = DistillationSettings(),
) -> Teacher:
    """Return the original of a run as a teacher, by the statistics that the settings name.

    Raises `UserError` if it is gone or damaged.
    """
    kept = kept_original(run)
    if kept is None:
        raise UserError(
            f"{networks_directory(run)}: the run's original, which networks learn from in this phase, is gone; restore "
            "it, or start anew with `restart=True`"
        )
    network = load_network(kept, space).to(device).to(memory_format=layout).requires_grad_(False)
    if settings.teacher_statistics == "batch":
        by_slot = {step.slot: network.block(step.name).weights for step in network.plan.steps}
        return SizedTeacher(nn.ModuleDict(by_slot), space, task)
    return without_gradient(lambda *inputs: task.outputs(network, inputs))
