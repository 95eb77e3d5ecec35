"""Going on with another number of processes than those that wrote a checkpoint."""

from pathlib import Path

from nasdeploy.core.errors import UserError
from nasdeploy.training.settings import TrainSettings


def change_of_processes(before: int | None, now: int, settings: TrainSettings, checkpoint: Path) -> str | None:
    """What it changes that `now` processes go on where `before` were; None if nothing changes, or it is not known.

    Raises `UserError` if the recipe forbids it.
    """
    if before is None or before == now:
        return None
    if settings.world_size_change == "refuse":
        raise UserError(
            f"{checkpoint}: written by {_counted(before)}, not {now}, and train.world_size_change is refuse; start as "
            "many again, or set train.world_size_change=allow"
        )
    batch = settings.batch_size
    normalised = "" if settings.sync_bn else ", which batch normalisation takes its statistics of (sync_bn is off)"
    return (
        f"{_counted(now)} instead of {before} from here on: the batch of {batch} images, the learning rate, and the "
        f"order and augmentation of images stay the same; each process now has {batch // now} images of a batch, not "
        f"{batch // before}{normalised}, draws other dropout, and sums in another order, so that the weights will not "
        "be bit for bit those of an undisturbed run"
    )


def _counted(processes: int) -> str:
    return "1 process" if processes == 1 else f"{processes} processes"
