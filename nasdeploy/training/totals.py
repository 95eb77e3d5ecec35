"""Losses of an epoch as they add up: part of a checkpoint, so that an interrupted epoch reports all of its steps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from nasdeploy.training.sandwich import Losses

ROLES = ("largest", "random", "smallest")


@dataclass
class Totals:
    """Sums of losses by role and of the gradient's norm over the steps that counted; how many did and did not."""

    sums: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    skipped: int = 0

    def add(self, losses: Losses, gradient_norm: float) -> bool:
        """Count a step; False if a loss or the gradient is not finite and the step is to be skipped."""
        values = {role: value for role in ROLES if (value := getattr(losses, role)) is not None}
        values["gradient_norm"] = gradient_norm
        if not all(isfinite(value) for value in values.values()):
            self.skipped += 1
            return False
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.steps += 1
        return True

    def metrics(self) -> dict[str, float | int | None]:
        """Mean losses by role, None for a role that no network had; mean gradient norm; number of skipped steps."""
        means = {f"loss_{role}": self._mean(role) for role in ROLES}
        return {**means, "gradient_norm": self._mean("gradient_norm"), "skipped_steps": self.skipped}

    def _mean(self, name: str) -> float | None:
        return self.sums[name] / self.steps if name in self.sums else None

    def to_plain(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"sums": dict(self.sums), "steps": self.steps, "skipped": self.skipped}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Totals":
        """From a checkpoint; raises KeyError, TypeError or ValueError if it is damaged."""
        sums = {str(role): float(value) for role, value in plain["sums"].items()}
        return cls(sums, int(plain["steps"]), int(plain["skipped"]))


def to_tensor(losses: Losses, stop: bool) -> Tensor:
    """`[4]`: losses by role (0 for a role that no network has) and whether this process was asked to stop."""
    return torch.tensor([*(getattr(losses, role) or 0.0 for role in ROLES), float(stop)])


def from_tensor(values: Tensor, losses: Losses) -> tuple[Losses, bool]:
    """Losses averaged over processes, with the roles that `losses` has, and whether any process has to stop."""
    largest, random, smallest, stop = values.tolist()
    return (
        Losses(largest, None if losses.random is None else random, None if losses.smallest is None else smallest),
        stop > 0,
    )
