"""Learning rate by iteration: linear warm-up times a decay (AlphaNet, appendix B; BigNAS, section 3.3)."""

from math import cos, floor, pi

from nasdeploy.training.settings import TrainSettings


def learning_rate(settings: TrainSettings, step: int, steps_per_epoch: int) -> float:
    """The rate at iteration `step` (from 0), for the recipe's batch size.

    Both warm-up and decay count from the first iteration; the decay ends at `lowest`, warm-up may begin below it.
    """
    epoch = step / steps_per_epoch
    base = settings.learning_rate * settings.batch_size / settings.reference_batch
    return base * _warmup(settings, epoch) * max(settings.lowest, _decay(settings, epoch))


def _warmup(settings: TrainSettings, epoch: float) -> float:
    if not settings.warmup_epochs:
        return 1.0
    start = settings.warmup_start
    return min(1.0, start + (1.0 - start) * epoch / settings.warmup_epochs)


def _decay(settings: TrainSettings, epoch: float) -> float:
    if settings.decay == "cosine":
        return 0.5 * (1.0 + cos(pi * epoch / settings.epochs))
    # In floating point 0.6 / 0.1 is less than 6.
    return settings.step_factor ** floor(epoch / settings.step_epochs + 1e-9)
