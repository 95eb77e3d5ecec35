"""Supernet training: epochs of sandwich steps, restartable after any step, on one process or many."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.amp import GradScaler

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import NasdeployError, Terminated, UserError
from nasdeploy.core.plan import Block
from nasdeploy.core.progress import Progress
from nasdeploy.core.randomness import generator, seed_for
from nasdeploy.core.space import SearchSpace
from nasdeploy.data.batches import TrainingBatches, class_weights, steps_per_epoch
from nasdeploy.data.images import ImageSets
from nasdeploy.data.settings import DataSettings
from nasdeploy.distributed.ranks import Ranks
from nasdeploy.nn import Forward, eager
from nasdeploy.nn.compiled import compiled
from nasdeploy.nn.device import set_threads
from nasdeploy.nn.functional import BATCH, SYNCHRONISED
from nasdeploy.spaces.mobilenet import drop_rates
from nasdeploy.supernet.settings import RecalibrationSettings
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.supernet.weights import initialise
from nasdeploy.tasks.losses import distillation_loss
from nasdeploy.training.checkpoint import Checkpoints, Position
from nasdeploy.training.diagnosis import broken_rows, cause_of
from nasdeploy.training.ema import MovingAverage, average_of, averaged_supernet
from nasdeploy.training.eta import peak_memory
from nasdeploy.training.metrics import Metrics, MetricsFile
from nasdeploy.training.monitor import Monitor, monitored
from nasdeploy.training.optimizer import clip_gradients, make_optimizer, set_learning_rate
from nasdeploy.training.precision import gradient_scaler, layout_of, mixed_precision, set_tf32
from nasdeploy.training.processes import change_of_processes
from nasdeploy.training.sampling.samplers import Sampler
from nasdeploy.training.sandwich import Losses, Sandwich, SandwichStep
from nasdeploy.training.schedule import learning_rate
from nasdeploy.training.settings import TrainSettings
from nasdeploy.training.sigterm import termination
from nasdeploy.training.skips import Cause, StepGuard, skipped_text
from nasdeploy.training.teacher import Teacher, not_finite
from nasdeploy.training.totals import Totals, from_tensor, to_tensor
from nasdeploy.training.validation import Validation, ValidationStopped


@dataclass
class Trainer:
    """Trains the supernet of a space. Everything random follows from (seed, step) or (seed, epoch, image)."""

    space: SearchSpace
    sets: ImageSets
    data: DataSettings
    settings: TrainSettings
    recalibration: RecalibrationSettings
    seed: int
    checkpoints: Checkpoints
    metrics: Path
    progress: Progress
    ranks: Ranks
    sampler: Sampler
    validated: dict[str, Arch]
    """Networks to validate, by name."""
    teacher: Teacher | None = None
    scalars: Path | None = None
    """Directory for TensorBoard's event files, if they are wanted."""
    require_run: Callable[[], None] = lambda: None
    """Raises `UserError` if the run was deleted, or replaced by another, before anything is written to it."""
    _saved: float = field(default_factory=monotonic)
    _average: MovingAverage | None = None

    def run(self, init: Path | None = None) -> Metrics:
        """Train to the last epoch, from the newest checkpoint if there is one.

        The result is the last epoch's metrics, with the number of all `steps` and those of them that were `skipped`.

        `init` is a weights file to start from, with a new classifier. Raises `Terminated` after a SIGTERM, when a
        checkpoint is written.
        """
        set_threads(self.settings.threads)
        set_tf32(self.settings)
        supernet, optimizer, position = self._prepare(init)
        total = self._steps
        done = position.epoch * self.steps_per_epoch + position.step
        directory = self.scalars if self.ranks.first else None
        with (
            termination() as asked_to_stop,
            monitored(done, total, self.ranks.device, self.progress, directory) as monitor,
        ):
            while position.epoch < self.settings.epochs:
                self._epoch(supernet, optimizer, position, monitor, asked_to_stop)
        # The first process has written the last line by then.
        self.ranks.wait()
        skipped = position.skips.to_plain()
        if (told := skipped_text(skipped, total)) is not None:
            self.progress.say(f"train: {told}")
        return {**MetricsFile(self.metrics).of(position.epoch), "steps": total, "skipped": skipped}

    @property
    def _steps(self) -> int:
        """Of the whole run."""
        return self.settings.epochs * self.steps_per_epoch

    @cached_property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return steps_per_epoch(self.sets.train, self.settings.batch_size)

    def _prepare(self, init: Path | None) -> tuple[Supernet, torch.optim.Optimizer, Position]:
        torch.manual_seed(seed_for(self.seed, "weights"))
        supernet = Supernet(self.space)
        if init is not None:
            initialise(supernet, init)
        supernet.to(device=self.ranks.device).to(memory_format=self._layout)
        optimizer = make_optimizer(supernet, self.settings)
        self._average = average_of(supernet, self.settings.ema)
        position = self.checkpoints.resume(supernet, optimizer, self._average, self._scaler)
        self._take_over(position)
        # All processes have read their checkpoint by then, before the first one writes another.
        if not self.ranks.same(position.epoch * self.steps_per_epoch + position.step):
            raise UserError(
                f"{self.checkpoints.directory}: the processes see different checkpoints there (this one epoch "
                f"{position.epoch} and {position.step} steps); put the run where all hosts see the same files"
            )
        if self.ranks.first:
            MetricsFile(self.metrics).keep(position.epoch)
            self._mark_if_best(position)
        return supernet, optimizer, position

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

    @cached_property
    def _forward_of(self) -> Callable[[Block], Forward]:
        return compiled() if self.settings.compile else eager

    @property
    def _layout(self) -> torch.memory_format:
        return layout_of(self.settings, self.ranks.device)

    def _epoch(
        self,
        supernet: Supernet,
        optimizer: torch.optim.Optimizer,
        position: Position,
        monitor: Monitor,
        asked_to_stop: Callable[[], bool],
    ) -> None:
        """The rest of the epoch at `position`, which moves along; its metrics, and a checkpoint at its end."""
        began, first = perf_counter(), position.step
        for images, labels in self._batches().epoch(position.epoch, position.step):
            stop = self._step(supernet, optimizer, position, images, labels, asked_to_stop(), monitor)
            position.step += 1
            self._save_between(supernet, optimizer, position, stop)
        if position.step == 0:
            raise NasdeployError("no batch of training images could be read; see the messages above")
        learned = (position.step - first) * self.settings.batch_size
        metrics = {
            "epoch": position.epoch + 1,
            "learning_rate": optimizer.param_groups[0]["lr"],
            **position.totals.metrics(),
            "skipped": position.skips.of_epoch(position.epoch + 1),
            "images_per_s": learned / (perf_counter() - began) if learned else None,
            "peak_memory_gib": peak_memory(self.ranks.device) / 2**30,
        }
        if self.ranks.first and self._validates(position.epoch + 1):
            metrics["validation"] = self._scores(supernet, optimizer, position, asked_to_stop)
        position.epoch, position.step, position.totals = position.epoch + 1, 0, Totals()
        self._finish_epoch(supernet, optimizer, position, metrics)
        monitor.epoch(metrics)

    def _batches(self) -> TrainingBatches:
        """Return the batches that this process learns from."""
        part = (self.ranks.rank, self.ranks.world)
        return TrainingBatches(self.sets.train, self.data, self.settings.batch_size, self.seed, part, self.ranks.device)

    def _note(self, position: Position) -> str:
        loss = position.totals.metrics()["loss_largest"] if position.totals.steps else None
        return f"epoch {position.epoch + 1}/{self.settings.epochs}" + (f", loss {loss:.3f}" if loss is not None else "")

    def _step(
        self,
        supernet: Supernet,
        optimizer: torch.optim.Optimizer,
        position: Position,
        images: Tensor,
        labels: Tensor,
        stop: bool,
        monitor: Monitor,
    ) -> bool:
        """One step on all processes; whether any of them was asked to stop."""
        step = position.epoch * self.steps_per_epoch + position.step
        torch.manual_seed(seed_for(self.seed, "step", step, self.ranks.rank))
        rate = learning_rate(self.settings, step, self.steps_per_epoch)
        set_learning_rate(optimizer, rate)
        optimizer.zero_grad(set_to_none=True)
        images = images.to(memory_format=self._layout)
        train = self._sandwich_step(supernet)
        sandwich = self.sampler.draw(
            generator(self.seed, "sandwich", step),
            position.epoch,
            lambda archs: train.losses_of(archs, images, labels),
        )
        own = train(sandwich, images, labels)
        averaged = self.ranks.average(supernet.parameters(), to_tensor(own, stop).to(self.ranks.device))
        losses, stop = from_tensor(averaged, own) if self.ranks.world > 1 else (own, stop)
        # After averaging: all processes then find the same overflow, and their scales stay equal.
        self._scaler.unscale_(optimizer)
        norm = clip_gradients(supernet.parameters(), self.settings)
        cause = partial(self._cause, train, sandwich, images, losses, position)
        position.totals.add(losses, norm)
        if self._guard.makes(losses, norm, position.epoch + 1, position.skips, cause):
            self._scaler.step(optimizer)
            if self._average is not None:
                self._average.update(supernet)
        self._scaler.update()
        monitor.step(losses, rate, norm, self._note(position))
        return stop

    def _cause(
        self, train: SandwichStep, sandwich: Sandwich, images: Tensor, losses: Losses, position: Position
    ) -> Cause:
        """Why a step is not finite; raises `UserError` if the teacher is not, on any of the processes."""
        autocast = self.settings.autocast
        with self.ranks.agreed():
            rows = broken_rows(train, images)
            if rows:
                names = self._batches().names(position.epoch, position.step, self.sets.classes)
                among = f"the {len(images)} of step {position.step + 1} of epoch {position.epoch + 1}"
                teacher = self.settings.distillation.teacher
                raise not_finite(teacher, [names[row] for row in rows], among, autocast)
        first = position.epoch == 0 and not position.totals.steps
        return cause_of(train, sandwich, images, losses, first=first, autocast=autocast)

    def _sandwich_step(self, supernet: Supernet) -> SandwichStep:
        settings = self.settings
        rates = drop_rates(self.space, settings.dropout, settings.drop_connect)
        distillation = settings.distillation
        loss = distillation_loss(distillation)
        statistics = SYNCHRONISED if settings.sync_bn and self.ranks.world > 1 else BATCH
        return SandwichStep(
            supernet,
            loss,
            settings.label_smoothing,
            rates,
            distillation.beta,
            self.teacher,
            statistics,
            precision=partial(mixed_precision, settings, self.ranks.device),
            forward_of=self._forward_of,
            scale=self._scaler.scale,
            class_weights=self._class_weights,
        )

    def _save_between(
        self, supernet: Supernet, optimizer: torch.optim.Optimizer, position: Position, stop: bool
    ) -> None:
        """Checkpoint within an epoch: on request, every so many steps, and when the last one is old.

        At an epoch's end as well, because its own checkpoint has to wait for validation, which may take long.
        """
        if stop:
            self._stop(supernet, optimizer, position)
        every = self.settings.checkpoint_steps
        due = every is not None and position.step % every == 0 and position.step < self.steps_per_epoch
        old = monotonic() - self._saved >= 60 * self.settings.checkpoint_minutes
        # While steps are skipped the weights may be lost: they must not push out checkpoints of better ones.
        if (due or old) and not self._guard.in_a_row:
            self._save(supernet, optimizer, position)

    def _save(self, supernet: Supernet, optimizer: torch.optim.Optimizer, position: Position) -> None:
        if self.ranks.first:
            self.require_run()
            self.checkpoints.save(supernet, optimizer, position, self._average, self._scaler)
            self._saved = monotonic()

    def _stop(self, supernet: Supernet, optimizer: torch.optim.Optimizer, position: Position) -> NoReturn:
        self._save(supernet, optimizer, position)
        raise Terminated(
            f"asked to stop; saved after epoch {position.epoch} and {position.step} steps more, and the same command "
            "resumes"
        )

    def _validates(self, epoch: int) -> bool:
        return epoch % self.settings.validate_every == 0 or epoch == self.settings.epochs

    def _scores(
        self,
        supernet: Supernet,
        optimizer: torch.optim.Optimizer,
        position: Position,
        asked_to_stop: Callable[[], bool],
    ) -> dict[str, dict[str, Any]]:
        """The validation after an epoch's last step; who is asked to stop meanwhile does so without its end."""
        try:
            scores = self._validation(averaged_supernet(supernet, self._average), asked_to_stop)
        except ValidationStopped:
            self._stop(supernet, optimizer, position)
        text = ", ".join(f"{name.split('_')[0]} {100 * score['top1']:.1f} %" for name, score in scores.items())
        self.progress.say(f"epoch {position.epoch + 1}: top-1 {text}")
        return scores

    def _finish_epoch(
        self, supernet: Supernet, optimizer: torch.optim.Optimizer, position: Position, metrics: Metrics
    ) -> None:
        if self.ranks.first:
            self.require_run()
            MetricsFile(self.metrics).append(metrics)
            self._save(supernet, optimizer, position)
            self._mark_if_best(position)

    def _mark_if_best(self, position: Position) -> None:
        """Mark the checkpoint of an epoch that is the best so far, also after a kill between the two."""
        if position.step == 0 and MetricsFile(self.metrics).best_epoch() == position.epoch:
            self.checkpoints.mark_best(position)

    @cached_property
    def _class_weights(self) -> Tensor | None:
        if self.data.balance != "loss":
            return None
        weights = class_weights(self.sets.train.labels, len(self.sets.classes))
        return torch.from_numpy(weights).to(self.ranks.device, torch.float32)

    @cached_property
    def _scaler(self) -> GradScaler:
        return gradient_scaler(self.settings, self.ranks.device)

    @cached_property
    def _guard(self) -> StepGuard:
        return StepGuard(self._steps, self.settings.most_skipped, self._scaler)

    @cached_property
    def _validation(self) -> Validation:
        return Validation(self.validated, self.sets, self.data, self.recalibration, self.seed)
