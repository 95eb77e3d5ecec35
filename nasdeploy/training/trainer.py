"""Supernet training: epochs of sandwich steps, restartable after any step, on one process or many."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from threading import current_thread, main_thread
from types import FrameType

import torch

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.core.randomness import seed_for
from nasdeploy.core.space import SearchSpace
from nasdeploy.distributed.ranks import Ranks
from nasdeploy.nn import eager
from nasdeploy.nn.compiled import compiled
from nasdeploy.nn.functional import BATCH, SYNCHRONISED
from nasdeploy.nn.inverted_residual import zero_last_scales
from nasdeploy.nn.network import set_threads
from nasdeploy.spaces.mobilenet import drop_rates
from nasdeploy.store.run import Run
from nasdeploy.supernet.settings import RecalibrationSettings
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.tasks.task import Task, TaskData
from nasdeploy.training.checkpoint import Checkpoints, Position, TrainingState, change_of_processes
from nasdeploy.training.loop import TrainingLoop
from nasdeploy.training.monitor import Metrics, MetricsFile, monitored
from nasdeploy.training.optimizer import layout_of, mixed_precision, set_tf32
from nasdeploy.training.sampling import Sampler
from nasdeploy.training.sandwich import (
    SandwichStep,
    StepComputation,
    skipped_text,
)
from nasdeploy.training.settings import TrainSettings
from nasdeploy.training.teacher import Teacher


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


@dataclass
class Trainer:
    """Trains the supernet of a space. Everything random follows from (seed, step) or (seed, epoch, sample)."""

    space: SearchSpace
    task: Task
    data: TaskData
    settings: TrainSettings
    recalibration: RecalibrationSettings
    seed: int
    sampler: Sampler
    to_validate: dict[str, Arch]
    """The networks to validate, by name."""
    directory: Run
    """The run that is written to."""
    progress: Progress
    ranks: Ranks
    teacher: Teacher | None = None

    def run(self, begin: Callable[[Supernet], None] = zero_last_scales) -> Metrics:
        """Train to the last epoch, from the newest checkpoint if there is one.

        The result is the last epoch's metrics, with the number of all `steps` and those of them that were `skipped`.

        `begin` gives a new supernet the weights that it begins with. Raises `Terminated` after a SIGTERM, when a
        checkpoint is written.
        """
        set_threads(self.settings.threads)
        set_tf32(self.settings)
        state = self._prepare(begin)
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
    def _loop(self, state: TrainingState) -> Iterator[TrainingLoop]:
        done = state.position.epoch * self.steps_per_epoch + state.position.step
        scalars = self.directory.scalars if self.settings.tensorboard and self.ranks.first else None
        with (
            termination() as asked_to_stop,
            monitored(done, self.steps, self.ranks.device, self.progress, scalars, self.task.metric) as monitor,
        ):
            yield TrainingLoop(self, state, monitor, asked_to_stop)

    @property
    def steps(self) -> int:
        """The number of optimizer steps of the whole run."""
        return self.settings.epochs * self.steps_per_epoch

    @cached_property
    def steps_per_epoch(self) -> int:
        """The number of optimizer steps of an epoch."""
        return self.data.steps_per_epoch(self.settings.batch_size)

    @cached_property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of the run."""
        return Checkpoints(self.directory.checkpoints, self.settings.kept_checkpoints)

    @cached_property
    def metrics(self) -> MetricsFile:
        """The metrics of the run."""
        return MetricsFile(self.directory.metrics, self.task.metric)

    @property
    def layout(self) -> torch.memory_format:
        """The memory layout of images and convolutions."""
        return layout_of(self.settings, self.ranks.device)

    def sandwich_step(self, state: TrainingState) -> SandwichStep:
        """Return what computes the gradients of each step."""
        settings = self.settings
        statistics = SYNCHRONISED if settings.sync_bn and self.ranks.world > 1 else BATCH
        execution = StepComputation(
            statistics,
            partial(mixed_precision, settings, self.ranks.device),
            compiled() if settings.compile else eager,
            state.scaler.scale,
        )
        rates = drop_rates(self.space, settings.dropout, settings.drop_connect)
        objective = self.task.objective(settings, self.data)
        return SandwichStep(state.supernet, self.task, objective, rates, self.teacher, execution)

    def _prepare(self, begin: Callable[[Supernet], None]) -> TrainingState:
        torch.manual_seed(seed_for(self.seed, "weights"))
        supernet = Supernet(self.space)
        begin(supernet)
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
