"""The steps of a training, epoch by epoch: what is learned from each batch, and when a checkpoint is written."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from nasdeploy.core.errors import NasdeployError, Terminated, UserError
from nasdeploy.core.randomness import generator, seed_for
from nasdeploy.tasks.task import Batch, Inputs
from nasdeploy.training.checkpoint import TrainingState
from nasdeploy.training.monitor import ENDED_EARLY, Metrics, Monitor, Validation, ValidationStopped, peak_memory
from nasdeploy.training.optimizer import (
    clip_gradients,
    give_zero_gradients,
    laid_out,
    learning_rate,
    set_learning_rate,
)
from nasdeploy.training.phase import Phase
from nasdeploy.training.sandwich import (
    Cause,
    Losses,
    Sandwich,
    StepGuard,
    Totals,
    broken_rows,
    cause_of,
    from_tensor,
    to_tensor,
)
from nasdeploy.training.teacher import not_finite

if TYPE_CHECKING:
    from nasdeploy.training.trainer import Trainer


@dataclass
class TrainingLoop:
    """The steps of a phase that are left from a state on; the state moves along."""

    trainer: "Trainer"
    phase: Phase
    state: TrainingState
    monitor: Monitor
    asked_to_stop: Callable[[], bool]
    _saved: float = field(default_factory=monotonic)

    def __post_init__(self) -> None:
        trainer = self.trainer
        self._gradients_of = trainer.sandwich_step(self.phase, self.state)
        steps = trainer.epochs(self.state.position) * trainer.steps_per_epoch
        self._guard = StepGuard(steps, trainer.settings.most_skipped, self.state.scaler)
        self._validation = Validation(
            self.phase.to_validate, trainer.task, trainer.data, trainer.recalibration, trainer.seed
        )
        self._share = (trainer.ranks.rank, trainer.ranks.world)

    def finish(self) -> None:
        """Do the rest of the phase at the state's position."""
        position = self.state.position
        number = position.phase
        while position.phase == number:
            self.epoch()

    def epoch(self) -> None:
        """Do the rest of the epoch at the state's position; write its metrics, and a checkpoint at its end."""
        trainer, position, samples = self.trainer, self.state.position, self.trainer.task.metric.samples
        began, first = perf_counter(), position.step
        for batch in self._batches():
            stop = self.step(batch)
            position.step += 1
            self._save_between(stop)
        if position.step == 0:
            raise NasdeployError(f"no batch of training {samples} could be read; see the messages above")
        learned = (position.step - first) * trainer.settings.batch_size
        metrics = {
            "epoch": position.epoch + 1,
            **({} if self.phase.name is None else {"phase": self.phase.name}),
            "learning_rate": self.state.optimizer.param_groups[0]["lr"],
            **position.totals.metrics(),
            "skipped": position.skips.of_epoch(position.epoch + 1),
            f"{samples}_per_s": learned / (perf_counter() - began) if learned else None,
            "peak_memory_gib": peak_memory(trainer.ranks.device) / 2**30,
        }
        if trainer.ranks.first and self._validates(position.epoch + 1):
            metrics["validation"] = self._scores()
        position.epoch, position.step, position.totals = position.epoch + 1, 0, Totals()
        self._end_phase(metrics)
        self._finish_epoch(metrics)
        self.monitor.epoch(metrics)

    def _batches(self) -> Iterator[Batch]:
        """Yield what this process learns from in the rest of the epoch."""
        trainer, position = self.trainer, self.state.position
        at = (position.epoch, position.step)
        size, device = trainer.settings.batch_size, trainer.ranks.device
        return trainer.data.train_batches(size, trainer.seed, at, self._share, device)

    def step(self, batch: Batch) -> bool:
        """Do one step on all processes; return whether any of them was asked to stop."""
        trainer, state, position = self.trainer, self.state, self.state.position
        settings, ranks, seed = self.phase.settings, trainer.ranks, trainer.seed
        step, stop = position.epoch * trainer.steps_per_epoch + position.step, self.asked_to_stop()
        torch.manual_seed(seed_for(seed, "step", step, ranks.rank))
        within = step - position.began * trainer.steps_per_epoch
        rate = learning_rate(settings, within, trainer.steps_per_epoch)
        set_learning_rate(state.optimizer, rate)
        state.optimizer.zero_grad(set_to_none=True)
        inputs, targets = laid_out(batch[0], trainer.layout), batch[1]
        sandwich = self.phase.sampler.draw(
            generator(seed, "sandwich", step),
            position.epoch - position.began,
            lambda archs: self._gradients_of.losses_of(archs, inputs, targets),
        )
        own = self._gradients_of(sandwich, inputs, targets)
        averaged = ranks.average(state.supernet.parameters(), to_tensor(own, stop).to(ranks.device))
        losses, stop = from_tensor(averaged, own) if ranks.world > 1 else (own, stop)
        if settings.unused_weights == "coast":
            give_zero_gradients(state.optimizer)
        # After averaging: all processes then find the same overflow, and their scales stay equal.
        state.scaler.unscale_(state.optimizer)
        norm = clip_gradients(state.supernet.parameters(), settings)
        position.totals.add(losses, norm)
        cause = partial(self._cause, sandwich, inputs, losses)
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
        return f"epoch {position.epoch + 1}/{self.trainer.epochs(position)}{told}"

    def _cause(self, sandwich: Sandwich, inputs: Inputs, losses: Losses) -> Cause:
        """Return why a step is not finite; raises `UserError` if the teacher is not, on any of the processes."""
        trainer, position = self.trainer, self.state.position
        with trainer.ranks.agreed():
            rows = broken_rows(self._gradients_of, sandwich, inputs)
            if rows:
                raise self._broken_teacher(rows, len(inputs[0]))
        first, autocast = position.epoch == 0 and not position.totals.steps, trainer.settings.autocast
        found = cause_of(self._gradients_of, sandwich, inputs, losses, first=first, autocast=autocast)
        return found or Cause(f"{trainer.task.metric.samples} that are not finite", trainer.data.advice)

    def _broken_teacher(self, rows: Sequence[int], samples: int) -> UserError:
        """Return the refusal of a teacher that gives no numbers for some rows of this process's part of the batch."""
        trainer, position = self.trainer, self.state.position
        settings, at = self.phase.settings, (position.epoch, position.step)
        names = trainer.data.names(settings.batch_size, trainer.seed, at, self._share)
        named = [names[row] if names else f"sample {row}" for row in rows]
        among = f"the {samples} of step {position.step + 1} of epoch {position.epoch + 1}"
        return not_finite(settings.distillation.teacher, named, among, settings.autocast)

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
        settings = self.phase.settings
        last = self.state.position.began + settings.epochs
        return epoch % settings.validate_every == 0 or epoch == last

    def _scores(self) -> dict[str, dict[str, Any]]:
        """Validate after an epoch's last step; who is asked to stop meanwhile does so without its end."""
        try:
            scores = self._validation(self.state.averaged, self.asked_to_stop)
        except ValidationStopped:
            self._stop()
        metric = replace(self.trainer.task.metric, decimals=1)
        text = ", ".join(f"{name.split('_')[0]} {metric.text(score[metric.key])}" for name, score in scores.items())
        phase = "" if self.phase.name is None else f" ({self.phase.name})"
        self.trainer.progress.say(f"epoch {self.state.position.epoch + 1}{phase}: {metric.name} {text}")
        return scores

    def _end_phase(self, metrics: Metrics) -> None:
        """Let the phase have ended if the finished epoch is its last, or the last that its patience allows."""
        position = self.state.position
        best = self._best_before(metrics)
        if best:
            # All processes; the first one then writes a checkpoint with these weights.
            self.trainer.checkpoints.best(best).restore_weights(self.state.averaged)
            metrics[ENDED_EARLY] = {"best_epoch": best}
            named = "training" if self.phase.name is None else f"phase {self.phase.name}"
            self.trainer.progress.say(
                f"train: {named} ends after epoch {position.epoch}, no better since epoch {best}, whose weights it "
                "ends with"
            )
        if best or position.epoch - position.began == self.phase.settings.epochs:
            position.ended = (*position.ended, position.epoch)

    def _best_before(self, metrics: Metrics) -> int:
        """Return the best epoch if it lies as far back as patience allows, else 0; the same on all processes."""
        trainer, position, patience = self.trainer, self.state.position, self.phase.settings.patience
        if patience is None:
            return 0
        found = 0
        if trainer.ranks.first and metrics.get("validation"):
            best = trainer.metrics.best_epoch(position.began, metrics)
            assert best is not None
            found = best if position.epoch - best >= patience else 0
        return trainer.ranks.told(found)

    def _finish_epoch(self, metrics: Metrics) -> None:
        if self.trainer.ranks.first:
            self.trainer.directory.require_there()
            self.trainer.metrics.append(metrics)
            self._save()
            self.trainer.mark_if_best(self.state.position)
