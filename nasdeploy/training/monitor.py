"""What is seen of a training run while it goes on: a bar, a forecast, and scalars for TensorBoard."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from nasdeploy.core.progress import Progress, Task
from nasdeploy.training.eta import Forecast
from nasdeploy.training.sandwich import Losses
from nasdeploy.training.scalars import Scalars, scalars_in


@dataclass
class Monitor:
    """Told of every step and epoch; `steps` counts finished optimizer steps from the beginning of the run."""

    steps: int
    task: Task
    forecast: Forecast
    scalars: Scalars

    def step(self, losses: Losses, learning_rate: float, gradient_norm: float, note: str) -> None:
        """A finished step; `note` is shown beside the bar."""
        self.steps += 1
        self.task.advance(note=note)
        self.forecast.step()
        figures = {f"loss/{role}": loss for role, loss in asdict(losses).items()}
        self.scalars.step(self.steps, {**figures, "learning_rate": learning_rate, "gradient_norm": gradient_norm})

    def epoch(self, metrics: Mapping[str, Any]) -> None:
        """A finished epoch."""
        self.scalars.epoch(self.steps, metrics)


@contextmanager
def monitored(
    done: int, total: int, device: torch.device, progress: Progress, directory: Path | None
) -> Iterator[Monitor]:
    """A monitor of a run of `total` steps of which `done` are finished; scalars go into `directory`, if any."""
    with progress.task("train", total, done=done) as task, scalars_in(directory, done) as scalars:
        yield Monitor(done, task, Forecast(total - done, device, progress), scalars)
