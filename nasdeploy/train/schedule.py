"""Learning rate by iteration: linear warm-up times a cosine (AlphaNet, appendix B)."""

from math import cos, pi

from nasdeploy.train.settings import TrainSettings


def learning_rate(settings: TrainSettings, step: int, steps_per_epoch: int) -> float:
    """The rate at iteration `step` (from 0), for the recipe's batch size."""
    total = settings.epochs * steps_per_epoch
    warmup = settings.warmup_epochs * steps_per_epoch
    base = settings.learning_rate * settings.batch_size / 256
    ramp = min(1.0, 0.001 + 0.999 * step / warmup) if warmup else 1.0
    return base * ramp * 0.5 * (1.0 + cos(pi * step / total))
