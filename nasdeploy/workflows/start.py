"""The weights that a training begins with: random ones, those of an earlier run, or those of a pretrained network."""

from collections.abc import Callable, Sequence
from os.path import realpath
from pathlib import Path

from nasdeploy.core.errors import UserError
from nasdeploy.core.space import SearchSpace
from nasdeploy.importers.start import initial_weights, open_model
from nasdeploy.nn.inverted_residual import zero_last_scales
from nasdeploy.recipe import Recipe
from nasdeploy.store.checkpoints import trained_weights
from nasdeploy.store.run import Run
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.supernet.weights import FORMATS, initialise, require_initialises
from nasdeploy.training.checkpoint import Checkpoints


def beginning(
    recipe: Recipe, space: SearchSpace, labels: Sequence[str], init: Path | None, replaced: Path | None
) -> Callable[[Supernet], None]:
    """Return what gives a new supernet of `space`, for data with these labels, its first weights.

    They are those of `init`, a file or the directory of a run, else those that the recipe starts from, else random.
    `replaced` is the directory of a run that is discarded before. Raises `UserError`, before anything is begun, for
    weights that cannot be had or do not fit.
    """
    start = recipe.start
    if init is not None:
        return _from_file(space, weights_of(init, f"`init` {init}", replaced))
    if start is None:
        return zero_last_scales
    if start.kind == "run":
        directory = Path(start.name)
        path = weights_of(directory, f"start.model {start.model}", replaced)
        same = Run.open(directory).manifest.classes == tuple(labels)
        return _from_file(space, path, classifier=same and start.classifier == "keep")
    weights = initial_weights(open_model(start), space, start)

    def begin(supernet: Supernet) -> None:
        supernet.load_state_dict(weights, strict=False)

    return begin


def _from_file(space: SearchSpace, path: Path, *, classifier: bool = False) -> Callable[[Supernet], None]:
    require_initialises(space, path, classifier=classifier)

    def begin(supernet: Supernet) -> None:
        zero_last_scales(supernet)
        initialise(supernet, path, classifier=classifier)

    return begin


def weights_of(init: Path, asked: str, replaced: Path | None) -> Path:
    """Return the file to start from, `init` itself or the newest checkpoint of that run; `asked` names it in errors."""
    if replaced is not None and Path(realpath(init)).is_relative_to(replaced.resolve()):
        raise UserError(
            f"{asked}: `restart=True` would discard that run; give the new one another directory with `run`"
        )
    if init.is_file() or (init.suffix in FORMATS and not init.is_dir()):
        return init
    run = Run.open(init)
    return trained_weights(run).path if run.is_finished("train") else Checkpoints(run.checkpoints).latest()
