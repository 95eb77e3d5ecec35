"""Supernet training: epochs of sandwich steps, restartable after any step, on one process or many."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

import torch

from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import Block
from nasdeploy.core.progress import Progress
from nasdeploy.core.randomness import seed_for
from nasdeploy.core.space import SearchSpace
from nasdeploy.distributed.ranks import Ranks
from nasdeploy.nn import Forward, eager
from nasdeploy.nn.compiled import compiled
from nasdeploy.nn.functional import BATCH, SYNCHRONISED
from nasdeploy.nn.inverted_residual import zero_last_scales
from nasdeploy.nn.network import keep_freed_memory, set_threads
from nasdeploy.spaces.mobilenet import drop_rates
from nasdeploy.store.checkpoints import weights_in
from nasdeploy.store.run import Run
from nasdeploy.supernet.growth import grow
from nasdeploy.supernet.importance import sort_channels
from nasdeploy.supernet.settings import RecalibrationSettings
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.tasks.task import Task, TaskData
from nasdeploy.training.checkpoint import Checkpoints, Position, SavedState, TrainingState, change_of_processes
from nasdeploy.training.graphs import Graphs, cuda_capture
from nasdeploy.training.loop import TrainingLoop
from nasdeploy.training.monitor import Metrics, MetricsFile, PhaseSteps, monitored
from nasdeploy.training.optimizer import layout_of, mixed_precision, set_tf32
from nasdeploy.training.original import HeldOutScoring, keep_original, say_kept, say_sliced, teacher_of
from nasdeploy.training.phase import Phase, trained_blocks
from nasdeploy.training.sandwich import SandwichStep, StepComputation, skipped_text
from nasdeploy.training.settings import TrainSettings
from nasdeploy.training.step_settings import ORIGINAL


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
    """Trains the supernet of a space, phase by phase. Everything random follows from (seed, step) or (seed, epoch,
    sample), which count from the beginning of the first phase."""

    space: SearchSpace
    task: Task
    data: TaskData
    settings: TrainSettings
    recalibration: RecalibrationSettings
    seed: int
    phases: Sequence[Phase]
    """What is done in each phase of the settings."""
    directory: Run
    """The run that is written to."""
    progress: Progress
    ranks: Ranks

    def run(self, begin: Callable[[Supernet], None] = zero_last_scales) -> Metrics:
        """Train to the last epoch, from the newest checkpoint if there is one.

        The result is the last epoch's metrics, with the number of all `steps` and those of them that were `skipped`.

        `begin` gives a new supernet the weights that it begins with. Raises `Terminated` after a SIGTERM, when a
        checkpoint is written.
        """
        set_threads(self.settings.threads)
        keep_freed_memory()
        set_tf32(self.settings)
        state = self._prepare(begin)
        position = state.position
        while position.phase < len(self.phases):
            phase = self.phases[position.phase]
            if position.between:
                state = self._begun(phase, state)
            if phase.settings.epochs:
                with self._loop(phase, state) as loop:
                    loop.finish()
            else:
                self._end_without_steps(state)
        if self._leaves_original(position):
            with self.ranks.agreed():
                if self.ranks.first:
                    self._between_phases(state.averaged, None, leaves_original=True, ended=position.ended)
        # The first process has written the last line by then.
        self.ranks.wait()
        steps, skipped = position.epoch * self.steps_per_epoch, position.skips.to_plain()
        if (told := skipped_text(skipped, steps)) is not None:
            self.progress.say(f"train: {told}")
        metrics = self.metrics.handed_on(position.epoch)
        return {**metrics, **self._phases_of(position), "steps": steps, "skipped": skipped}

    def _phases_of(self, position: Position) -> dict[str, Any]:
        """Return which phases there were and how many epochs each took, where the settings have any."""
        ends = pairwise((0, *position.ended))
        found = [
            {"name": phase.name, "epochs": end - began, "early": end - began < phase.settings.epochs}
            for phase, (began, end) in zip(self.phases, ends, strict=True)
        ]
        return {"phases": found} if self.settings.phases else {}

    def _begun(self, phase: Phase, state: TrainingState) -> TrainingState:
        """Return the state before the first step of a phase, with the weights that the one before handed on."""
        if state.average is not None:
            state.supernet.load_state_dict(state.averaged.state_dict())
        if phase.settings.grow:
            grow(state.supernet, trained_blocks(self.space, self.phases, state.position.ended))
        criterion, leaves_original = phase.settings.sort_channels, self._leaves_original(state.position)
        with self.ranks.agreed():
            if self.ranks.first and (criterion is not None or leaves_original):
                self._between_phases(state.supernet, criterion, leaves_original, state.position.ended)
        if criterion is not None:
            # Sums of other processes might be rounded otherwise, and order channels otherwise.
            self.ranks.share(state.supernet.state_dict().values())
        return TrainingState.fresh(state.supernet, phase.settings, state.position)

    def _end_without_steps(self, state: TrainingState) -> None:
        """End a phase of 0 epochs: the checkpoint takes the place of that of the phase before, which ended there."""
        state.position.ended = (*state.position.ended, state.position.epoch)
        if self.ranks.first:
            self.directory.require_there()
            self.checkpoints.save(state)

    def _leaves_original(self, position: Position) -> bool:
        """Return whether the phase that has just ended leaves the original."""
        return position.phase - 1 == self.settings.original_phase

    def _between_phases(
        self, supernet: Supernet, criterion: str | None, leaves_original: bool, ended: Sequence[int]
    ) -> None:
        """Keep the original, sort channels, and tell what networks reach that are merely sliced."""
        scoring = HeldOutScoring(self.task, self.data, self.recalibration, self.seed, self.ranks.device)
        space = self.space
        if leaves_original:
            checkpoint = weights_in(self.checkpoints.latest()).facts
            with self.progress.stage("train: the original's score"):
                kept = keep_original(self.directory, scoring.of(supernet), space, checkpoint)
            say_kept(kept, self.progress)
        if criterion is not None:
            batches, trained = (
                scoring.calibration(space.plan(space.largest())),
                trained_blocks(space, self.phases, ended),
            )
            with self.progress.stage("train: sorting channels"):
                sort_channels(supernet, criterion, batches, self.task.outputs, trained)
        if leaves_original:
            with self.progress.stage("train: networks merely sliced out of the original"):
                say_sliced(scoring.of(supernet), space, self.seed, self.progress)

    @contextmanager
    def _loop(self, phase: Phase, state: TrainingState) -> Iterator[TrainingLoop]:
        scalars = self.directory.scalars if self.settings.tensorboard and self.ranks.first else None
        each, position = self.steps_per_epoch, state.position
        steps = PhaseSteps(
            (position.epoch - position.began) * each + position.step,
            phase.settings.epochs * each,
            position.began * each,
            phase.name,
        )
        with (
            termination() as asked_to_stop,
            monitored(steps, self.ranks.device, self.progress, scalars, self.task.metric) as monitor,
        ):
            yield TrainingLoop(self, phase, state, monitor, asked_to_stop)

    def epochs(self, position: Position) -> int:
        """Return the number of epochs of the whole run, as far as phases did not end early."""
        return position.began + sum(phase.settings.epochs for phase in self.phases[position.phase :])

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

    @cached_property
    def forward_of(self) -> Callable[[Block], Forward]:
        """The computation of a block, the same in all phases."""
        return compiled(self.progress.say) if self.settings.compile else eager

    @property
    def layout(self) -> torch.memory_format:
        """The memory layout of images and convolutions."""
        return layout_of(self.settings, self.ranks.device)

    def sandwich_step(self, phase: Phase, state: TrainingState) -> SandwichStep:
        """Return what computes the gradients of each step of a phase."""
        settings = phase.settings
        statistics = SYNCHRONISED if settings.sync_bn and self.ranks.world > 1 else BATCH
        execution = StepComputation(
            statistics,
            partial(mixed_precision, settings, self.ranks.device),
            self.forward_of,
            state.scaler.scale,
            self._graphs(state) if statistics is BATCH else None,
        )
        rates = drop_rates(self.space, settings.dropout, settings.drop_connect)
        objective, teacher = self.task.objective(settings, self.data), phase.teacher
        if settings.distillation.teacher == ORIGINAL:
            where = (self.ranks.device, self.layout)
            teacher = teacher_of(self.directory, self.space, self.task, *where, settings.distillation)
        return SandwichStep(state.supernet, self.task, objective, rates, teacher, execution)

    def _graphs(self, state: TrainingState) -> Graphs | None:
        """Return what records networks, on a GPU."""
        device = self.ranks.device
        if not self.settings.cuda_graphs or device.type != "cuda":
            return None
        return Graphs(tuple(state.supernet.parameters()), cuda_capture(device), self.progress.say)

    def _prepare(self, begin: Callable[[Supernet], None]) -> TrainingState:
        torch.manual_seed(seed_for(self.seed, "weights"))
        supernet = Supernet(self.space)
        begin(supernet)
        supernet.to(device=self.ranks.device).to(memory_format=self.layout)
        saved = self.checkpoints.newest()
        position = Position() if saved is None else saved.position
        self._require_end(position)
        phase = self.phases[min(position.phase, len(self.phases) - 1)]
        state = TrainingState.fresh(supernet, phase.settings, position)
        if saved is not None:
            self._require_phases(saved)
            # The optimizer of a finished phase is not needed any more.
            saved.restore_weights(state.averaged) if position.between else saved.restore(state)
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

    def _require_phases(self, saved: SavedState) -> None:
        """Raise `UserError` for a checkpoint by which phases ended that are not these."""
        ended = saved.position.ended
        with_steps = [end > began for began, end in pairwise((0, *ended))]
        if with_steps != [phase.settings.epochs > 0 for phase in self.phases[: len(ended)]]:
            raise UserError(f"{saved.path}: damaged; {saved.remedy}")

    def _require_end(self, position: Position) -> None:
        """Let a phase whose last epoch is finished have ended: checkpoints of earlier versions do not say so."""
        going_on = self.phases[position.phase : position.phase + 1]
        if position.step or position.between:
            return
        if any(position.epoch - position.began == each.settings.epochs for each in going_on):
            position.ended = (*position.ended, position.epoch)

    def _take_over(self, position: Position) -> None:
        """Say what is resumed, and what other processes change; raises `UserError` if that is forbidden."""
        if position.epoch or position.step:
            change = change_of_processes(position.processes, self.ranks.world, self.settings, self.checkpoints.latest())
            self.progress.say(
                f"train: resumed after epoch {position.epoch} of {self.epochs(position)}"
                + (f" and {position.step} of {self.steps_per_epoch} steps" if position.step else "")
            )
            if change is not None:
                self.progress.say(f"train: {change}")
        position.processes = self.ranks.world

    def mark_if_best(self, position: Position) -> None:
        """Mark the checkpoint of an epoch that is the best of its phase so far, also after a kill between the two."""
        before = max((end for end in position.ended if end < position.epoch), default=0)
        if position.step == 0 and self.metrics.best_epoch(before) == position.epoch:
            self.checkpoints.mark_best(position)
