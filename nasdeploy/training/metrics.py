"""Metrics of a training run: a JSON line for each finished epoch."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from nasdeploy.core.errors import UserError
from nasdeploy.core.settings import Settings
from nasdeploy.store.files import append_json_line, disk_full_named, read_json_lines, write_text
from nasdeploy.store.records import parse_record
from nasdeploy.training.validation import mean_top1

Metrics = dict[str, Any]


class _Score(Settings, extra="allow"):
    top1: float


class _Line(Settings, extra="allow"):
    """What has to be in a line that is read back; the rest is for people."""

    epoch: int = Field(ge=1)
    validation: dict[str, _Score] | None = Field(default=None, min_length=1)


@dataclass(frozen=True)
class MetricsFile:
    """The file `metrics.jsonl` of a run."""

    path: Path

    def lines(self) -> list[Metrics]:
        """All lines, the oldest first; raises `UserError` naming one that is damaged."""
        lines = read_json_lines(self.path)
        for number, line in enumerate(lines, start=1):
            parse_record(_Line, line, Path(f"{self.path}: line {number}"), "damaged; remove that line")
        return lines

    def keep(self, epochs: int) -> None:
        """Drop the line of an epoch that was cut off between its metrics and its checkpoint, and is run again."""
        kept = [line for line in self.lines() if line["epoch"] <= epochs]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))

    def append(self, metrics: Metrics) -> None:
        """Keep the metrics of one more epoch, also through a power cut: its checkpoint comes after and survives one."""
        append_json_line(self.path, metrics)
        with disk_full_named(self.path), self.path.open("rb") as file:
            os.fsync(file.fileno())

    def of(self, epoch: int) -> Metrics:
        """The metrics of an epoch; raises `UserError` if they are lost."""
        for line in self.lines():
            if line["epoch"] == epoch:
                return line
        raise UserError(
            f"{self.path}: the line of epoch {epoch} is lost; restore it, or delete that epoch's checkpoint so that it "
            "is run again"
        )

    def best_epoch(self) -> int | None:
        """The epoch with the best mean accuracy of the validated networks, the first of equals; None before any."""
        validated = [line for line in self.lines() if line.get("validation")]
        return max(validated, key=lambda line: mean_top1(line["validation"]))["epoch"] if validated else None
