"""The weights that a run is given: those that its training begins with, or all of them, and then it is finished.

A training begins with random ones, those of an earlier run, or those of a pretrained network. A published supernet may
be imported as a run, which is evaluated, searched and exported as one that was trained here.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os.path import realpath
from pathlib import Path
from typing import Any

from torch import Tensor

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress, quantity
from nasdeploy.core.space import SearchSpace
from nasdeploy.importers.published import PublishedSupernet, published_weights, read_published
from nasdeploy.importers.start import initial_weights, open_model
from nasdeploy.nn.inverted_residual import zero_last_scales
from nasdeploy.recipe import Recipe, load_recipe
from nasdeploy.spaces import IMAGENET_CLASSES
from nasdeploy.store.checkpoints import sum_of, trained_weights
from nasdeploy.store.files import locked_while_written, replacing_directory
from nasdeploy.store.run import RememberedData, Run
from nasdeploy.supernet.settings import FROM_PUBLISHED
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.supernet.weights import FORMATS, initialise, keep_trained, require_initialises
from nasdeploy.tasks import task_of
from nasdeploy.tasks.task import TaskData
from nasdeploy.training.checkpoint import Checkpoints


def beginning(
    recipe: Recipe, space: SearchSpace, labels: Sequence[str], init: Path | None, replaced: Path | None
) -> Callable[[Supernet], None]:
    """Return what gives a new supernet of `space`, for data with these labels, its first weights.

    They are those of `init`, a file or the directory of a run, else those that the recipe starts from, else random. A
    run's classifier is kept if it learned the same classes; a file tells no classes, and gives none.
    `replaced` is the directory of a run that is discarded before. Raises `UserError`, before anything is begun, for
    weights that cannot be had or do not fit.
    """
    start = recipe.start
    if init is not None:
        path = weights_of(init, f"`init` {init}", replaced)
        return _from_file(space, path, classifier=knows(init, labels))
    if start is None:
        return zero_last_scales
    if start.kind == "run":
        directory = Path(start.name)
        path = weights_of(directory, f"start.model {start.model}", replaced)
        return _from_file(space, path, classifier=start.classifier == "keep" and knows(directory, labels))
    if start.kind in FROM_PUBLISHED:
        return _with(published_weights(start, space))
    return _with(initial_weights(open_model(start), space, start))


def knows(init: Path, labels: Sequence[str]) -> bool:
    """Return whether `init` is a run that learned exactly these classes, in this order; a file tells no classes."""
    return bool(labels) and init.is_dir() and Run.open(init).manifest.classes == tuple(labels)


def _with(weights: Mapping[str, Tensor]) -> Callable[[Supernet], None]:
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


# -- imports


@dataclass(frozen=True)
class ImportRequest:
    """What is asked of one import."""

    kind: str
    """A key of `nasdeploy.importers.published.PUBLISHED`."""
    file: Path
    directory: Path
    """The directory of the run that it becomes."""
    data: str | None = None
    """The folder of images of the classes that it learned; None if they are looked at when they are needed."""
    assignments: Sequence[str] = ()
    """Changes of its recipe, as `key.key=value`."""
    restart: bool = False
    """Whether a run in that directory is replaced."""


def import_supernet(request: ImportRequest, progress: Progress) -> Run:
    """Make a run, whose training is finished, of a published supernet, and return it.

    Its recipe is the one that such supernets were trained with. It appears whole or not at all. Raises `UserError` for
    a run that is there already, a file that is no such supernet, or one of other classes than those of the data.
    """
    with locked_while_written(request.directory):
        _require_free(request)
        with progress.stage(f"import: reading {request.file}"):
            found = read_published(request.kind, request.file)
        recipe = _recipe(request, found)
        space = recipe.load_space(found.classes)
        with progress.stage("import: opening the data"):
            data = None if request.data is None else task_of(recipe.task).open(recipe.data, recipe.seed)
        _require_classes(request, found, data)
        for note in (*found.notes, *(() if data is None else data.notes)):
            progress.say(f"import: {note}")
        with replacing_directory(request.directory) as partial:
            with progress.stage("import: writing the run"):
                _write(partial, recipe, space, data, found)
            if request.restart:
                Run.discard(request.directory)
    progress.say(
        f"import: {request.directory}, {found.tensors} tensors of {found.parameters:,} parameters, "
        f"{found.classes} classes, space {space.name} with {quantity(space.networks)} architectures"
    )
    return Run.open(request.directory)


def _require_free(request: ImportRequest) -> None:
    directory = request.directory
    if (directory / "manifest.json").exists():
        if request.restart:
            return
        raise UserError(
            f"{directory}: there is a run already; give another directory with `out`, or `restart=True` to replace it"
        )
    if directory.is_dir() and any(directory.iterdir()):
        raise UserError(f"{directory}: holds files but no run; give another directory with `out`, or empty that one")


def _recipe(request: ImportRequest, found: PublishedSupernet) -> Recipe:
    """Return the recipe of the run; raises `UserError` for changes of what the file and the directory say."""
    for assignment in request.assignments:
        if re.split(r"[.=]", assignment)[0].strip() in ("space", "name"):
            raise UserError(f"`set={assignment}`: the file says the space, and `out` the name; leave it out")
    named = [f"space={found.space}", f"name={json.dumps(request.directory.absolute().name)}"]
    return load_recipe(found.recipe, [*named, *request.assignments], request.data)


def _require_classes(request: ImportRequest, found: PublishedSupernet, data: TaskData | None) -> None:
    """Raise `UserError` unless the data, by default ImageNet, has as many classes as the file."""
    wanted = IMAGENET_CLASSES if data is None else data.outputs
    if found.classes != wanted:
        of = "ImageNet" if data is None else request.data
        raise UserError(
            f"{request.file}: its classifier tells {found.classes} classes apart, and {of} has {wanted}; give the "
            f"folder of the images that it learned with `data`, or begin a recipe with it, and a new classifier: "
            f"`nd.init(start={request.kind}:FILE, data=DIR)`"
        )


def _write(
    directory: Path, recipe: Recipe, space: SearchSpace, data: TaskData | None, found: PublishedSupernet
) -> None:
    """Write the run into an empty directory."""
    supernet = Supernet(space)
    supernet.load_state_dict(found.weights, strict=False)
    remembered: RememberedData = {"outputs": found.classes} if data is None else data.record()
    run = Run.create(
        directory.parent,
        directory.name,
        recipe=recipe.to_json(),
        space=space.digest,
        seed=recipe.seed,
        **remembered,
    )
    weights = keep_trained(run, space.digest, supernet.state_dict(), 0)
    run.finish("train", {"epoch": 0, "imported": _origin(found), **weights})


def _origin(found: PublishedSupernet) -> dict[str, Any]:
    """Return where the weights are from, as it stands in the manifest."""
    return {
        "kind": found.kind,
        "file": found.path.name,
        "sha256": sum_of(found.path),
        "tensors": found.tensors,
        "parameters": found.parameters,
    }
