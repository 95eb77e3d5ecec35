"""Training as a report shows it: losses by role, scores of the validated networks, speed and memory, epoch by epoch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from nasdeploy.core.errors import UserError
from nasdeploy.core.score import Metric

Column = tuple[float | None, ...]
"""The values of a figure, one for each of the epochs; None where an epoch has none."""
_LOSS = "loss_"


@dataclass(frozen=True)
class PhaseSpan:
    """A phase of a training: the epochs that were gone through in it so far, and those that were planned."""

    name: str
    """The name in the recipe; empty for the only phase of a training without phases."""
    first: int | None
    """The first epoch, counted from 1 over all phases; None before it has begun, and for a phase of no epoch."""
    last: int | None
    """The last epoch so far."""
    planned: int
    """The number of epochs in the recipe."""
    best_epoch: int | None = None
    """The epoch whose weights were taken, where the phase ended early; else None."""


@dataclass(frozen=True)
class ScoreCurve:
    """The scores of one validated network."""

    values: Column
    """The scores; multiply by the metric's `scale` for what is shown."""
    errors: Column
    """The standard errors of `values`, in the same unit."""
    losses: Column
    """The mean label losses."""


@dataclass(frozen=True)
class TrainingCurves:
    """What was learned: the supernet, or one network alone. All columns have a value for each of `epochs`."""

    title: str
    """`supernet`, or `fine-tuning of DIGEST`."""
    epochs: tuple[int, ...]
    """The numbers of the finished epochs, ascending from 1 over all phases."""
    planned: int
    """The number of epochs in the recipe."""
    phases: tuple[PhaseSpan, ...]
    """The phases in their order; one without a name where the recipe has none."""
    losses: Mapping[str, Column]
    """The training losses by the role of the network: `largest`, `random`, `smallest` and others."""
    scores: Mapping[str, ScoreCurve]
    """The scores on validation samples by the name of the network."""
    samples: int | None
    """The number of validation samples; None where nothing was validated."""
    learning_rate: Column
    """The learning rate of each epoch."""
    gradient_norm: Column
    """The mean norm of the gradients."""
    samples_per_s: Column
    """The samples that were learned from in a second."""
    peak_memory_gib: Column
    """The most memory in GiB that the process had held by then."""
    skipped_steps: Column
    """The number of steps in which the loss or the gradient was no number, and which were left out."""


def training_curves(
    title: str, lines: Sequence[Mapping[str, Any]], metric: Metric, phases: Sequence[tuple[str, int]]
) -> TrainingCurves:
    """Return the curves in the lines of a `metrics.jsonl`, the oldest first.

    `phases` are names and planned epochs by the recipe, in their order; one without a name for a training without
    phases. A value that is no finite number is None. Raises `UserError` for a line without the number of its epoch.
    """
    lines = [line for line in lines if _is_epoch(line)]
    epochs = tuple(int(line["epoch"]) for line in lines)
    names = dict.fromkeys(name for line in lines for name in _validation(line))
    counts = [one.get(metric.samples) for line in lines for one in _validation(line).values()]
    return TrainingCurves(
        title=title,
        epochs=epochs,
        planned=sum(epochs for _, epochs in phases),
        phases=_spans(lines, phases),
        losses=_losses(lines),
        scores={name: _score_curve(name, lines, metric) for name in names},
        samples=next((count for count in reversed(counts) if isinstance(count, int)), None),
        learning_rate=_column(lines, "learning_rate"),
        gradient_norm=_column(lines, "gradient_norm"),
        samples_per_s=_column(lines, f"{metric.samples}_per_s"),
        peak_memory_gib=_column(lines, "peak_memory_gib"),
        skipped_steps=_column(lines, "skipped_steps"),
    )


def _is_epoch(line: Mapping[str, Any]) -> bool:
    """Return whether a line is of an epoch; raises `UserError` for one that does not say of which."""
    epoch = line.get("epoch")
    if not isinstance(epoch, int) or isinstance(epoch, bool) or epoch < 0:
        raise UserError(f"metrics.jsonl: a line is of epoch {str(epoch)[:40]}, which is no number; remove that line")
    return epoch > 0


def _losses(lines: Sequence[Mapping[str, Any]]) -> dict[str, Column]:
    """Return the losses of the roles that have any."""
    roles = dict.fromkeys(key.removeprefix(_LOSS) for line in lines for key in line if key.startswith(_LOSS))
    found = {role: _column(lines, _LOSS + role) for role in roles}
    return {role: column for role, column in found.items() if any(value is not None for value in column)}


def _score_curve(name: str, lines: Sequence[Mapping[str, Any]], metric: Metric) -> ScoreCurve:
    scores = [_validation(line).get(name, {}) for line in lines]
    return ScoreCurve(_column(scores, metric.key), _column(scores, metric.error_key), _column(scores, metric.loss_key))


def _validation(line: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    found = line.get("validation")
    if not isinstance(found, dict):
        return {}
    return {str(name): score for name, score in found.items() if isinstance(score, dict)}


def _spans(lines: Sequence[Mapping[str, Any]], phases: Sequence[tuple[str, int]]) -> tuple[PhaseSpan, ...]:
    found = []
    for name, planned in phases:
        own = [line for line in lines if str(line.get("phase") or "") == name]
        best = [early.get("best_epoch") for line in own if isinstance(early := line.get("ended_early"), dict)]
        numbers = [int(line["epoch"]) for line in own]
        first, last = (numbers[0], numbers[-1]) if numbers else (None, None)
        found.append(
            PhaseSpan(name, first, last, planned, next((epoch for epoch in best if isinstance(epoch, int)), None))
        )
    return tuple(found)


def _column(lines: Sequence[Mapping[str, Any]], key: str) -> Column:
    return tuple(finite(line.get(key)) for line in lines)


def finite(value: object) -> float | None:
    """Return a number that JSON can hold; None for what is no number, or not finite."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and isfinite(value) else None  # type: ignore[arg-type]
