"""Which checkpoint the training of a run goes on from: the newest that is whole. Damaged ones are set aside."""

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.store.checkpoints import BEST, LostWeights, is_as_trained, is_whole, trained_weights, weights_in
from nasdeploy.store.files import writable
from nasdeploy.store.run import Facts, Run
from nasdeploy.training.checkpoint import Checkpoints


def has_its_weights(run: Run) -> bool:
    """Whether the checkpoint that the finished training of a run ended with is there, and what it was."""
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
        raise UserError(f"{lost}no whole checkpoint is left; restore one, or start anew with --restart")
    for path in damaged:
        aside = path.with_name(f"{path.name}.damaged")
        with writable(path):
            path.replace(aside)
        progress.say(f"train: {path} is damaged, and lies aside as {aside.name}")
    if none_left:
        progress.say(f"train: {best} serves instead, as {checkpoints.restore_best().name}")


def trained_facts(run: Run, metrics: Facts, progress: Progress) -> Facts:
    """What a finished training leaves: its last metrics, and which weights it ended with."""
    weights = weights_in(Checkpoints(run.checkpoints).latest()).facts.model_dump()
    before = run.manifest.finished.get("train", {}).get("weights", weights)
    if before != weights:
        progress.say("train: the weights are not bit for bit those that training ended with before; search again")
    return {**metrics, "weights": weights}
