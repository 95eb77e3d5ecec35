"""Supernet training: epochs of sandwich steps, restartable after any step, on one process or many."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from threading import current_thread, main_thread
from time import monotonic, perf_counter
from types import FrameType
from typing import Any, NoReturn

import torch
from torch import Tensor

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import NasdeployError, Terminated, UserError
from nasdeploy.core.progress import Progress
from nasdeploy.core.randomness import generator, seed_for
from nasdeploy.core.space import SearchSpace
from nasdeploy.data.batches import TrainingBatches, class_weights, steps_per_epoch
from nasdeploy.data.images import ImageSets
from nasdeploy.data.settings import DataSettings
from nasdeploy.distributed.ranks import Ranks
from nasdeploy.nn import eager
from nasdeploy.nn.compiled import compiled
from nasdeploy.nn.device import set_threads
from nasdeploy.nn.functional import BATCH, SYNCHRONISED
from nasdeploy.nn.inverted_residual import zero_last_scales
from nasdeploy.spaces.mobilenet import drop_rates
from nasdeploy.store.run import Run
from nasdeploy.supernet.settings import RecalibrationSettings
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.supernet.weights import initialise
from nasdeploy.tasks.losses import distillation_loss
from nasdeploy.training.checkpoint import Checkpoints, Position, TrainingState, change_of_processes
from nasdeploy.training.metrics import Metrics, MetricsFile, Validation, ValidationStopped
from nasdeploy.training.monitor import Monitor, monitored, peak_memory
from nasdeploy.training.optimizer import clip_gradients, learning_rate, set_learning_rate
from nasdeploy.training.precision import layout_of, mixed_precision, set_tf32
from nasdeploy.training.sampling import Sampler
from nasdeploy.training.sandwich import (
    Execution,
    Losses,
    Objective,
    Sandwich,
    SandwichStep,
    Totals,
    from_tensor,
    to_tensor,
)
from nasdeploy.training.settings import TrainSettings
from nasdeploy.training.skips import Cause, StepGuard, broken_rows, cause_of, skipped_text
from nasdeploy.training.teacher import Teacher, not_finite

Batch = tuple[Tensor, Tensor]
"""Images `[N, 3, S, S]` and labels `[N]` of a step."""


@contextmanager
def termination() -> Iterator[Callable[[], bool]]:
    """Give a function that tells whether the process was asked to stop since (SIGTERM, as schedulers send it).

    Outside the main thread it never was.
    """
    asked = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    if current_thread() is not main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGTERM, before)


@dataclass(frozen=True)
class TrainingData:
    """The images that a supernet learns from and is validated on, and how they are read."""

    sets: ImageSets
    settings: DataSettings
    recalibration: RecalibrationSettings
    seed: int


@dataclass
class Trainer:
    """Trains the supernet of a space. Everything random follows from (seed, step) or (seed, epoch, image)."""

    space: SearchSpace
    data: TrainingData
    settings: TrainSettings
    sampler: Sampler
    to_validate: dict[str, Arch]
    """The networks to validate, by name."""
    directory: Run
    """The run that is written to."""
    progress: Progress
    ranks: Ranks
    teacher: Teacher | None = None

    def run(self, init: Path | None = None) -> Metrics:
        """Train to the last epoch, from the newest checkpoint if there is one.

        The result is the last epoch's metrics, with the number of all `steps` and those of them that were `skipped`.

        `init` is a weights file to start from, with a new classifier. Raises `Terminated` after a SIGTERM, when a
        checkpoint is written.
        """
        set_threads(self.settings.threads)
        set_tf32(self.settings)
        state = self._prepare(init)
        with self._loop(state) as loop:
            while state.position.epoch < self.settings.epochs:
                loop.epoch()
        # The first process has written the last line by then.
        self.ranks.wait()
        skipped = state.position.skips.to_plain()
        if (told := skipped_text(skipped, self.steps)) is not None:
            self.progress.say(f"train: {told}")
        return {**self.metrics.of(state.position.epoch), "steps": self.steps, "skipped": skipped}

    @contextmanager
    def _loop(self, state: TrainingState) -> Iterator["TrainingLoop"]:
        done = state.position.epoch * self.steps_per_epoch + state.position.step
        scalars = self.directory.scalars if self.settings.tensorboard and self.ranks.first else None
        with (
            termination() as asked_to_stop,
            monitored(done, self.steps, self.ranks.device, self.progress, scalars) as monitor,
        ):
            yield TrainingLoop(self, state, monitor, asked_to_stop)

    @property
    def steps(self) -> int:
        """The number of optimizer steps of the whole run."""
        return self.settings.epochs * self.steps_per_epoch

    @cached_property
    def steps_per_epoch(self) -> int:
        """The number of optimizer steps of an epoch."""
        return steps_per_epoch(self.data.sets.train, self.settings.batch_size)

    @cached_property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of the run."""
        return Checkpoints(self.directory.checkpoints, self.settings.kept_checkpoints)

    @cached_property
    def metrics(self) -> MetricsFile:
        """The metrics of the run."""
        return MetricsFile(self.directory.metrics)

    @property
    def layout(self) -> torch.memory_format:
        """The memory layout of images and weights."""
        return layout_of(self.settings, self.ranks.device)

    def sandwich_step(self, state: TrainingState) -> SandwichStep:
        """Return what computes the gradients of each step."""
        settings, balanced = self.settings, self.data.settings.balance == "loss"
        statistics = SYNCHRONISED if settings.sync_bn and self.ranks.world > 1 else BATCH
        objective = Objective(
            settings.label_smoothing,
            self._class_weights() if balanced else None,
            distillation_loss(settings.distillation),
            settings.distillation.beta,
        )
        execution = Execution(
            statistics,
            partial(mixed_precision, settings, self.ranks.device),
            compiled() if settings.compile else eager,
            state.scaler.scale,
        )
        rates = drop_rates(self.space, settings.dropout, settings.drop_connect)
        return SandwichStep(state.supernet, objective, rates, self.teacher, execution)

    def _class_weights(self) -> Tensor:
        weights = class_weights(self.data.sets.train.labels, len(self.data.sets.classes))
        return torch.from_numpy(weights).to(self.ranks.device, torch.float32)

    def _prepare(self, init: Path | None) -> TrainingState:
        torch.manual_seed(seed_for(self.data.seed, "weights"))
        supernet = Supernet(self.space)
        zero_last_scales(supernet)
        if init is not None:
            initialise(supernet, init)
        supernet.to(device=self.ranks.device).to(memory_format=self.layout)
        state = TrainingState.fresh(supernet, self.settings)
        self.checkpoints.resume(state)
        position = state.position
        self._take_over(position)
        # All processes have read their checkpoint by then, before the first one writes another.
        if not self.ranks.same(position.epoch * self.steps_per_epoch + position.step):
            raise UserError(
                f"{self.checkpoints.directory}: the processes see different checkpoints there (this one epoch "
                f"{position.epoch} and {position.step} steps); put the run where all hosts see the same files"
            )
        if self.ranks.first:
            self.metrics.keep(position.epoch)
            self.mark_if_best(position)
        return state

    def _take_over(self, position: Position) -> None:
        """Say what is resumed, and what other processes change; raises `UserError` if that is forbidden."""
        if position.epoch or position.step:
            change = change_of_processes(position.processes, self.ranks.world, self.settings, self.checkpoints.latest())
            self.progress.say(
                f"train: resumed after epoch {position.epoch} of {self.settings.epochs}"
                + (f" and {position.step} of {self.steps_per_epoch} steps" if position.step else "")
            )
            if change is not None:
                self.progress.say(f"train: {change}")
        position.processes = self.ranks.world

    def mark_if_best(self, position: Position) -> None:
        """Mark the checkpoint of an epoch that is the best so far, also after a kill between the two."""
        if position.step == 0 and self.metrics.best_epoch() == position.epoch:
            self.checkpoints.mark_best(position)


@dataclass
class TrainingLoop:
    """The steps of a trainer that are left from a state on; the state moves along."""

    trainer: Trainer
    state: TrainingState
    monitor: Monitor
    asked_to_stop: Callable[[], bool]
    _saved: float = field(default_factory=monotonic)

    def __post_init__(self) -> None:
        trainer, data = self.trainer, self.trainer.data
        self._gradients_of = trainer.sandwich_step(self.state)
        self._guard = StepGuard(trainer.steps, trainer.settings.most_skipped, self.state.scaler)
        self._validation = Validation(trainer.to_validate, data.sets, data.settings, data.recalibration, data.seed)

    def epoch(self) -> None:
        """Do the rest of the epoch at the state's position; write its metrics, and a checkpoint at its end."""
        trainer, position = self.trainer, self.state.position
        began, first = perf_counter(), position.step
        for batch in self._batches().epoch(position.epoch, position.step):
            stop = self.step(batch)
            position.step += 1
            self._save_between(stop)
        if position.step == 0:
            raise NasdeployError("no batch of training images could be read; see the messages above")
        images = (position.step - first) * trainer.settings.batch_size
        metrics = {
            "epoch": position.epoch + 1,
            "learning_rate": self.state.optimizer.param_groups[0]["lr"],
            **position.totals.metrics(),
            "skipped": position.skips.of_epoch(position.epoch + 1),
            "images_per_s": images / (perf_counter() - began) if images else None,
            "peak_memory_gib": peak_memory(trainer.ranks.device) / 2**30,
        }
        if trainer.ranks.first and self._validates(position.epoch + 1):
            metrics["validation"] = self._scores()
        position.epoch, position.step, position.totals = position.epoch + 1, 0, Totals()
        self._finish_epoch(metrics)
        self.monitor.epoch(metrics)

    def _batches(self) -> TrainingBatches:
        """Return the batches that this process learns from."""
        data, ranks, size = self.trainer.data, self.trainer.ranks, self.trainer.settings.batch_size
        return TrainingBatches(data.sets.train, data.settings, size, data.seed, (ranks.rank, ranks.world), ranks.device)

    def step(self, batch: Batch) -> bool:
        """Do one step on all processes; return whether any of them was asked to stop."""
        trainer, state, position = self.trainer, self.state, self.state.position
        settings, ranks, seed = trainer.settings, trainer.ranks, trainer.data.seed
        step, stop = position.epoch * trainer.steps_per_epoch + position.step, self.asked_to_stop()
        torch.manual_seed(seed_for(seed, "step", step, ranks.rank))
        rate = learning_rate(settings, step, trainer.steps_per_epoch)
        set_learning_rate(state.optimizer, rate)
        state.optimizer.zero_grad(set_to_none=True)
        images, labels = batch[0].to(memory_format=trainer.layout), batch[1]
        sandwich = trainer.sampler.draw(
            generator(seed, "sandwich", step),
            position.epoch,
            lambda archs: self._gradients_of.losses_of(archs, images, labels),
        )
        own = self._gradients_of(sandwich, images, labels)
        averaged = ranks.average(state.supernet.parameters(), to_tensor(own, stop).to(ranks.device))
        losses, stop = from_tensor(averaged, own) if ranks.world > 1 else (own, stop)
        # After averaging: all processes then find the same overflow, and their scales stay equal.
        state.scaler.unscale_(state.optimizer)
        norm = clip_gradients(state.supernet.parameters(), settings)
        position.totals.add(losses, norm)
        cause = partial(self._cause, sandwich, images, losses)
        if self._guard.makes(losses, norm, position.epoch + 1, position.skips, cause):
            state.scaler.step(state.optimizer)
            if state.average is not None:
                state.average.update(state.supernet)
        state.scaler.update()
        self.monitor.step(losses, rate, norm, self._note())
        return stop

    def _note(self) -> str:
        """Return what is shown beside the bar."""
        position = self.state.position
        loss = position.totals.leading_loss
        told = "" if loss is None else f", loss {loss:.3f}"
        return f"epoch {position.epoch + 1}/{self.trainer.settings.epochs}{told}"

    def _cause(self, sandwich: Sandwich, images: Tensor, losses: Losses) -> Cause:
        """Return why a step is not finite; raises `UserError` if the teacher is not, on any of the processes."""
        settings, position = self.trainer.settings, self.state.position
        with self.trainer.ranks.agreed():
            rows = broken_rows(self._gradients_of, images)
            if rows:
                names = self._batches().names(position.epoch, position.step, self.trainer.data.sets.classes)
                among = f"the {len(images)} of step {position.step + 1} of epoch {position.epoch + 1}"
                teacher = settings.distillation.teacher
                raise not_finite(teacher, [names[row] for row in rows], among, settings.autocast)
        first = position.epoch == 0 and not position.totals.steps
        return cause_of(self._gradients_of, sandwich, images, losses, first=first, autocast=settings.autocast)

    def _save_between(self, stop: bool) -> None:
        """Write a checkpoint within an epoch: on request, every so many steps, and when the last one is old.

        There is one at an epoch's end as well, because its own checkpoint has to wait for validation, which may take
        long.
        """
        if stop:
            self._stop()
        settings, step = self.trainer.settings, self.state.position.step
        every = settings.checkpoint_steps
        due = every is not None and step % every == 0 and step < self.trainer.steps_per_epoch
        old = monotonic() - self._saved >= 60 * settings.checkpoint_minutes
        # While steps are skipped the weights may be lost: they must not push out checkpoints of better ones.
        if (due or old) and not self._guard.in_a_row:
            self._save()

    def _save(self) -> None:
        if self.trainer.ranks.first:
            # The run may have been deleted, or replaced by another.
            self.trainer.directory.require_there()
            self.trainer.checkpoints.save(self.state)
            self._saved = monotonic()

    def _stop(self) -> NoReturn:
        self._save()
        position = self.state.position
        raise Terminated(
            f"asked to stop; saved after epoch {position.epoch} and {position.step} steps more, and the same command "
            "resumes"
        )

    def _validates(self, epoch: int) -> bool:
        settings = self.trainer.settings
        return epoch % settings.validate_every == 0 or epoch == settings.epochs

    def _scores(self) -> dict[str, dict[str, Any]]:
        """Validate after an epoch's last step; who is asked to stop meanwhile does so without its end."""
        try:
            scores = self._validation(self.state.averaged, self.asked_to_stop)
        except ValidationStopped:
            self._stop()
        text = ", ".join(f"{name.split('_')[0]} {100 * score['top1']:.1f} %" for name, score in scores.items())
        self.trainer.progress.say(f"epoch {self.state.position.epoch + 1}: top-1 {text}")
        return scores

    def _finish_epoch(self, metrics: Metrics) -> None:
        if self.trainer.ranks.first:
            self.trainer.directory.require_there()
            self.trainer.metrics.append(metrics)
            self._save()
            self.trainer.mark_if_best(self.state.position)
