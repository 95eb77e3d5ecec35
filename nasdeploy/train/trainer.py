"""Supernet training: epochs of sandwich steps, with metrics and a checkpoint after each."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from nasdeploy.data.batches import calibration_batches, evaluation_batches, steps_per_epoch, train_batches
from nasdeploy.data.images import ImageSets
from nasdeploy.data.settings import DataSettings
from nasdeploy.errors import NasdeployError, UserError
from nasdeploy.evaluate import Evaluator, Score
from nasdeploy.progress import Progress, Task
from nasdeploy.randomness import generator, seed_for
from nasdeploy.space import SearchSpace
from nasdeploy.store.files import append_json_line, read_json_lines, write_text
from nasdeploy.supernet.settings import RecalibrationSettings
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.supernet.weights import initialise
from nasdeploy.train.checkpoint import Checkpoints
from nasdeploy.train.losses import distillation_loss
from nasdeploy.train.optimizer import make_optimizer, set_learning_rate
from nasdeploy.train.sandwich import Losses, SandwichStep, draw
from nasdeploy.train.schedule import learning_rate
from nasdeploy.train.settings import TrainSettings

Metrics = dict[str, Any]


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

    def run(self, init: Path | None = None) -> Metrics:
        """Train to the last epoch, from the newest checkpoint if there is one; the last epoch's metrics.

        `init` is a weights file to start from, with a new classifier.
        """
        if self.settings.threads is not None:
            torch.set_num_threads(self.settings.threads)
        supernet, optimizer, start = self._prepare(init)
        last: Metrics = {}
        total = self.settings.epochs * self.steps_per_epoch
        with self.progress.task("train", total, done=start * self.steps_per_epoch) as task:
            for epoch in range(start, self.settings.epochs):
                last = self._epoch(supernet, optimizer, epoch, task)
                append_json_line(self.metrics, last)
                self.checkpoints.save(supernet, optimizer, epoch + 1)
        return last or read_json_lines(self.metrics)[-1]

    @cached_property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch."""
        return steps_per_epoch(self.sets.train, self.settings.batch_size)

    @cached_property
    def _device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def _prepare(self, init: Path | None) -> tuple[Supernet, torch.optim.Optimizer, int]:
        torch.manual_seed(seed_for(self.seed, "weights"))
        supernet = Supernet(self.space)
        if init is not None:
            initialise(supernet, init)
        supernet.to(device=self._device).to(memory_format=self._layout)
        optimizer = make_optimizer(supernet, self.settings)
        start = self.checkpoints.resume(supernet, optimizer)
        # An epoch that was cut off between its metrics and its checkpoint is run again.
        kept = [line for line in read_json_lines(self.metrics) if line.get("epoch", 0) <= start]
        write_text(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))
        if start:
            self.progress.say(f"train: resumed after epoch {start} of {self.settings.epochs}")
        return supernet, optimizer, start

    @property
    def _layout(self) -> torch.memory_format:
        return torch.channels_last if self.settings.channels_last else torch.contiguous_format

    def _epoch(self, supernet: Supernet, optimizer: torch.optim.Optimizer, epoch: int, task: Task) -> Metrics:
        began, losses = perf_counter(), []
        batches = train_batches(self.sets.train, self.data, self.settings.batch_size, self.seed, epoch)
        for number, (images, labels) in enumerate(batches):
            step = epoch * self.steps_per_epoch + number
            losses.append(self._step(supernet, optimizer, step, images, labels))
            _check_finite(losses[-1], epoch)
            task.advance(note=f"epoch {epoch + 1}/{self.settings.epochs}, loss {losses[-1].largest:.3f}")
        if not losses:
            raise NasdeployError("no batch of training images could be read; see the messages above")
        metrics = {
            "epoch": epoch + 1,
            "learning_rate": optimizer.param_groups[0]["lr"],
            **_mean_losses(losses),
            "images_per_s": len(losses) * self.settings.batch_size / (perf_counter() - began),
        }
        if (epoch + 1) % self.settings.validate_every == 0 or epoch + 1 == self.settings.epochs:
            metrics["validation"] = self._validate(supernet, epoch)
        return metrics

    def _step(
        self, supernet: Supernet, optimizer: torch.optim.Optimizer, step: int, images: Tensor, labels: Tensor
    ) -> Losses:
        torch.manual_seed(seed_for(self.seed, "step", step))
        set_learning_rate(optimizer, learning_rate(self.settings, step, self.steps_per_epoch))
        optimizer.zero_grad(set_to_none=True)
        sandwich = draw(self.space, self.settings.random_networks, generator(self.seed, "sandwich", step))
        images = images.to(self._device, memory_format=self._layout)
        losses = self._sandwich_step(supernet)(sandwich, images, labels.to(self._device))
        if self.settings.clip_value is not None:
            nn.utils.clip_grad_value_(supernet.parameters(), self.settings.clip_value)
        optimizer.step()
        return losses

    def _sandwich_step(self, supernet: Supernet) -> SandwichStep:
        settings = self.settings
        rates = self.space.drop_rates(settings.dropout, settings.drop_connect)
        return SandwichStep(supernet, distillation_loss(settings.distillation), settings.label_smoothing, rates)

    def _validate(self, supernet: Supernet, epoch: int) -> dict[str, Any]:
        evaluator = Evaluator(
            supernet,
            self._calibration,
            lambda: evaluation_batches(self.sets.val, self.data, self.recalibration.batch_size),
        )
        random = draw(self.space, self.settings.validate_random, generator(self.seed, "validation")).random
        archs = {"smallest": self.space.smallest(), "largest": self.space.largest()}
        archs |= {f"random_{arch.digest}": arch for arch in random}
        scores = {name: evaluator(arch) for name, arch in archs.items()}
        text = ", ".join(f"{name.split('_')[0]} {100 * score.top1:.1f} %" for name, score in scores.items())
        self.progress.say(f"epoch {epoch + 1}: top-1 {text}")
        return {name: _plain(score) for name, score in scores.items()}

    @cached_property
    def _calibration(self) -> Sequence[Tensor]:
        settings = self.recalibration
        return calibration_batches(self.sets.train, self.data, settings.batch_size, settings.search_batches, self.seed)


def _check_finite(losses: Losses, epoch: int) -> None:
    for network, loss in asdict(losses).items():
        if loss is not None and not isfinite(loss):
            raise UserError(
                f"training diverged in epoch {epoch + 1}: the loss of the {network} network is {loss}; lower "
                "train.learning_rate and start anew with --restart"
            )


def _mean_losses(losses: list[Losses]) -> Metrics:
    names = ("largest", "random", "smallest")
    rows = {name: [getattr(loss, name) for loss in losses] for name in names}
    return {f"loss_{name}": sum(row) / len(row) if None not in row else None for name, row in rows.items()}


def _plain(score: Score) -> Metrics:
    return {**asdict(score), "top1_error": score.top1_error}
