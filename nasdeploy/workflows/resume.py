"""What a training takes up: the run that was begun, its newest whole checkpoint, and its data."""

from collections.abc import Iterator
from pathlib import Path

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.data.datasets import open_data, read_data
from nasdeploy.data.images import ImageSets
from nasdeploy.data.inspect import LOOKED_AT, measured_range, note_on_levels, used_range
from nasdeploy.data.settings import DataSettings, ValueBounds
from nasdeploy.recipe import Recipe, learned_differences, recipe_of, with_range
from nasdeploy.store.checkpoints import BEST, LostWeights, is_as_trained, is_whole, trained_weights, weights_in
from nasdeploy.store.files import writable
from nasdeploy.store.run import Facts, Run
from nasdeploy.supernet.weights import keep_trained
from nasdeploy.tasks.image_data import ImageData, sets_of_run
from nasdeploy.tasks.task import TaskData
from nasdeploy.training.checkpoint import Checkpoints


def begun(recipe: Recipe, directory: Path) -> Run | None:
    """Return the run in a directory, None if there is none; raises `UserError` if it was begun with another recipe.

    Only what the weights depend on has to be the same: search and what suits a machine may change, and the device
    unless networks are drawn by its latency.
    """
    if not (directory / "manifest.json").exists():
        return None
    run = Run.open(directory)
    before = recipe_of(run)
    differing = learned_differences(before, with_range(recipe, run.manifest.range))
    by_latency = any(settings.sampling.prior == "latency" for settings in recipe.train.of_phases)
    if by_latency and before.device != recipe.device:
        differing.append("device")
    if differing:
        raise UserError(
            f"{directory}: begun with another recipe ({differing[0]} differs); give another directory with `run`, or "
            "start anew with `restart=True`"
        )
    return run


def unfinished(recipe: Recipe, directory: Path) -> Run | None:
    """Return the run to go on with, None if it was not begun; raises `UserError` if there is nothing left to train."""
    run = begun(recipe, directory)
    if run is not None and run.is_finished("train") and has_its_weights(run):
        raise UserError(
            f"{directory}: training is finished; go on with `nd.search()`, give another directory with `run`, or "
            "train anew with `restart=True`"
        )
    return run


def has_its_weights(run: Run) -> bool:
    """Return whether the weights that the finished training of a run ended with are there, and what they were."""
    try:
        trained_weights(run)
    except LostWeights:
        return False
    return True


def leave_out_damaged(run: Run, progress: Progress) -> None:
    """Let the newest checkpoint of a run that was begun be a whole one, if there is any; `best.pt` is the last resort.

    Raises `UserError`, and changes nothing, where training would have to begin again from the first step.
    """
    checkpoints = Checkpoints(run.checkpoints)
    damaged = []
    for path in reversed(checkpoints.all()):
        if is_as_trained(run, path):
            break
        damaged.append(path)
    best = run.checkpoints / BEST
    # Whoever deletes all checkpoints of a training that goes on wants it to begin again.
    none_left = len(damaged) == len(checkpoints.all()) and (bool(damaged) or run.is_finished("train"))
    if none_left and not is_whole(best):
        lost = f"{damaged[0]}: damaged, and " if damaged else f"{run.checkpoints}: "
        raise UserError(f"{lost}no whole checkpoint is left; restore one, or start anew with `restart=True`")
    for path in damaged:
        aside = path.with_name(f"{path.name}.damaged")
        with writable(path):
            path.replace(aside)
        progress.say(f"train: {path} is damaged, and lies aside as {aside.name}")
    if none_left:
        progress.say(f"train: {best} serves instead, as {checkpoints.restore_best().name}")


def hand_on(run: Run, metrics: Facts, progress: Progress) -> Facts:
    """Write the weights that training ended with; return what it leaves: its last metrics, and which weights these are.

    A run that an earlier version finished stays as it is, with its last checkpoint: what was made from that goes by its
    sum.
    """
    before = run.manifest.finished.get("train")
    if before is not None and "supernet" not in before:
        return trained_facts(run, metrics, progress)
    newest = Checkpoints(run.checkpoints).newest()
    assert newest is not None  # Training has just written it.
    content = newest.content
    found = keep_trained(run, content["space"], content["weights"], newest.position.epoch)
    _tell_others(run, found["weights"], progress)
    return {**metrics, **found}


def trained_facts(run: Run, metrics: Facts, progress: Progress) -> Facts:
    """Return what a training leaves whose weights nobody takes from it: its last metrics, and its last checkpoint."""
    weights = weights_in(Checkpoints(run.checkpoints).latest()).facts.model_dump()
    _tell_others(run, weights, progress)
    return {**metrics, "weights": weights}


def _tell_others(run: Run, weights: Facts, progress: Progress) -> None:
    """Say so if the weights are others than a finished training of the run ended with before."""
    if run.manifest.finished.get("train", {}).get("weights", weights) != weights:
        progress.say("train: the weights are not bit for bit those that training ended with before; search again")


def open_data_of(run: Run, recipe: Recipe) -> ImageSets:
    """Open the images of a run, where `recipe` says that they lie now.

    Raises `UserError` for data that is missing, has other classes, or is not what the run was begun with.
    """
    return sets_of_run(run, recipe.images, recipe.seed, read_data(recipe.images))


def measured_for(recipe: Recipe, directory: Path, restart: bool) -> ValueBounds | None:
    """Return the range that `data.range: measured` stands for: that of the run in a directory, else of the images.

    Pictures of more than 8 bits have values of black and white of their own; the range is that of the training images.
    None if the recipe asks for no such thing. Raises `UserError` for data that is missing or has no such pictures.
    """
    if not isinstance(recipe.data, DataSettings) or recipe.data.range != "measured":
        return None
    if not restart and (directory / "manifest.json").exists():
        return Run.open(directory).manifest.range
    return measured_range(open_data(recipe.images, recipe.seed).train).bounds


def lines_on_range(recipe: Recipe, measured: ValueBounds | None, data: TaskData) -> Iterator[str]:
    """Give what a user should know of the range that pictures are decoded with: what was measured, or what is lost."""
    if measured is not None:
        low, high = measured
        yield f"black and white of the pictures are {low:.6g} and {high:.6g}, measured on training images"
    elif isinstance(data, ImageData) and data.settings.range != "measured":
        note = note_on_levels(used_range(data.sets.train, LOOKED_AT), data.settings.range)
        if note:
            yield note
