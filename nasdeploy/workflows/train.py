"""Training a run, taking up where it was stopped."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from os.path import realpath
from pathlib import Path
from typing import Any

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.core.space import SearchSpace
from nasdeploy.data.datasets import read_data
from nasdeploy.data.images import ImageSets
from nasdeploy.data.inventory import OpenedData
from nasdeploy.data.recorded_split import split_content
from nasdeploy.data.settings import ValueBounds
from nasdeploy.data.split import split_sets
from nasdeploy.distributed.ranks import Ranks, joined
from nasdeploy.latency.files import find_table
from nasdeploy.recipe import Recipe, learned_differences, recipe_of, with_range
from nasdeploy.runtimes.device import load_device
from nasdeploy.store.checkpoints import trained_weights
from nasdeploy.store.run import RUNS, Run
from nasdeploy.supernet.weights import FORMATS, require_initialises
from nasdeploy.tasks.same_images import sets_of_run
from nasdeploy.training.checkpoint import Checkpoints
from nasdeploy.training.sampling.samplers import Origin, Sampler, sampler_from, validated
from nasdeploy.training.scalars import require_tensorboard
from nasdeploy.training.teacher import Teacher
from nasdeploy.training.trainer import Trainer
from nasdeploy.training.trial import Trial
from nasdeploy.workflows.resume import has_its_weights, leave_out_damaged, trained_facts
from nasdeploy.workflows.teacher import described, load_teacher, try_teacher
from nasdeploy.workflows.value_range import lines_on_range, measured_for


def train(
    recipe: Recipe,
    directory: Path,
    progress: Progress,
    *,
    init: Path | None = None,
    restart: bool = False,
    require: Callable[[SearchSpace], None] = lambda space: None,
) -> Run | None:
    """Train the supernet of a recipe in a run directory, resuming if it was begun there.

    `init` is a file of weights to start from, or the directory of a run; `require` raises what else has to be right of
    the space. A finished run whose last checkpoint is lost or damaged goes on from the last whole one. Raises
    `UserError` for a run that is finished or of another recipe, unless `restart` discards it; that happens only when
    everything else was found to be right.
    Started by `torchrun`, all processes share each batch; only the first one writes, and the others return None;
    where several find the same mistake, one raises it and the others `FailedElsewhere`.
    """
    with joined() as ranks:
        run = _train(
            recipe, directory, progress if ranks.first else Progress(quiet=True), ranks, init, restart, require
        )
        return run if ranks.first else None


def _train(
    recipe: Recipe,
    directory: Path,
    progress: Progress,
    ranks: Ranks,
    init: Path | None,
    restart: bool,
    require: Callable[[SearchSpace], None],
) -> Run:
    with ranks.agreed():
        measured = measured_for(recipe, directory, restart)
        written, recipe = recipe, with_range(recipe, measured)
        prepared = _prepare(recipe, directory, ranks, init, restart, require)
    with ranks.agreed():
        if ranks.first:
            _begin(written, measured, directory, prepared, progress, restart)
    with ExitStack() as held:
        with ranks.agreed():
            run = _run_of_all(directory, ranks)
            sets = sets_of_run(run, recipe.images, recipe.seed, prepared.data)
            if ranks.first:
                held.enter_context(run.lock())
        trainer = Trainer(
            space=prepared.origin.space,
            sets=sets,
            data=recipe.images,
            settings=recipe.train,
            recalibration=recipe.recalibration,
            seed=recipe.seed,
            checkpoints=Checkpoints(run.checkpoints, recipe.train.kept_checkpoints),
            metrics=run.metrics,
            progress=progress,
            ranks=ranks,
            sampler=prepared.sampler,
            validated=validated(prepared.origin),
            teacher=prepared.teacher,
            scalars=run.scalars if recipe.train.tensorboard else None,
            require_run=run.require_there,
        )
        metrics = trainer.run(prepared.weights)
        if ranks.first:
            facts = {**metrics, **_teacher_facts(recipe, prepared.trial)}
            run.finish("train", trained_facts(run, facts, progress))
    return run


@dataclass(frozen=True)
class _Prepared:
    """What training needs and was found to be right."""

    data: OpenedData
    sets: ImageSets
    origin: Origin
    sampler: Sampler
    teacher: Teacher | None
    trial: Trial | None
    """Of the teacher; only the first process tries it."""
    weights: Path | None
    begun: Run | None
    """The run to go on with; only the first process looks for it."""


def _prepare(
    recipe: Recipe,
    directory: Path,
    ranks: Ranks,
    init: Path | None,
    restart: bool,
    require: Callable[[SearchSpace], None],
) -> _Prepared:
    """Check everything before the run is begun; raises `UserError` for whatever is wrong."""
    _require_share(recipe, ranks)
    require_tensorboard(recipe.train)
    weights = None if init is None else _weights_of(init, replaced=directory if restart else None)
    begun_before = None if restart or not ranks.first else _unfinished(recipe, directory)
    data = read_data(recipe.images)
    if begun_before is None:
        sets = split_sets(data, recipe.images, recipe.seed)
    else:
        sets = sets_of_run(begun_before, recipe.images, recipe.seed, data)
    space = recipe.load_space(len(sets.classes))
    require(space)
    if weights is not None:
        require_initialises(space, weights)
    origin = _origin(recipe, space)
    sampler = sampler_from(origin)
    batch = max(1, min(recipe.train.batch_size, len(sets.train)) // ranks.world)
    teacher = load_teacher(recipe, sets.classes, batch, ranks.device)
    trial = try_teacher(teacher, recipe, sets, batch, ranks.device) if teacher is not None and ranks.first else None
    return _Prepared(data, sets, origin, sampler, teacher, trial, weights, begun_before)


def _begin(
    written: Recipe,
    measured: ValueBounds | None,
    directory: Path,
    prepared: _Prepared,
    progress: Progress,
    restart: bool,
) -> None:
    if restart:
        Run.discard(directory)
    sets, space = prepared.sets, prepared.origin.space
    if prepared.begun is not None:
        with prepared.begun.lock():
            leave_out_damaged(prepared.begun, progress)
    run = prepared.begun or _create(written, measured, directory, sets, space)
    for note in (*sets.notes, *lines_on_range(written, measured, sets.train)):
        progress.say(f"data: {note}")
    progress.say(
        f"train: {run.path}, {len(sets.train)} images of {len(sets.classes)} classes, "
        f"space {space.name} with {space.size:.3g} architectures"
    )
    if prepared.trial is not None:
        progress.say(described(written, prepared.trial))


def _teacher_facts(recipe: Recipe, trial: Trial | None) -> dict[str, Any]:
    """What a finished training says of its teacher: its name, and its accuracy on some training images."""
    if trial is None:
        return {}
    return {"teacher": {"name": recipe.train.distillation.teacher, "top1": trial.top1, "images": trial.images}}


def _run_of_all(directory: Path, ranks: Ranks) -> Run:
    """The run that the first process began; raises `UserError` where this one does not see it."""
    try:
        return Run.open(directory)
    except UserError as error:
        if ranks.first:
            raise
        raise UserError(
            f"{directory}: another host began the run there, and this one does not see it ({error}); give a directory "
            "that all hosts share with --run"
        ) from None


def _origin(recipe: Recipe, space: SearchSpace) -> Origin:
    """What the sampler needs; raises `UserError` if it needs a latency table and there is none."""
    latency = recipe.train.sampling.prior == "latency"
    table = find_table(space, load_device(recipe.device)) if latency else None
    return Origin(space, recipe.train, recipe.seed, table)


def _unfinished(recipe: Recipe, directory: Path) -> Run | None:
    """The run to go on with, None if it was not begun; raises `UserError` if there is nothing left to train."""
    run = begun(recipe, directory)
    if run is not None and run.is_finished("train") and has_its_weights(run):
        raise UserError(
            f"{directory}: training is finished; go on with 'nasdeploy search', give another directory with --run, or "
            "train anew with --restart"
        )
    return run


def _create(recipe: Recipe, measured: ValueBounds | None, directory: Path, sets: ImageSets, space: SearchSpace) -> Run:
    return Run.create(
        directory.parent,
        directory.name,
        recipe=recipe.to_json(),
        space=space.digest,
        classes=sets.classes,
        images=sets.fingerprint,
        data=(sets.split.facts, split_content(sets.split)),
        range=measured,
        seed=recipe.seed,
    )


def _require_share(recipe: Recipe, ranks: Ranks) -> None:
    """Raise `UserError` unless each process gets equally many images of a batch."""
    size = recipe.train.batch_size
    if size % ranks.world:
        raise UserError(
            f"train.batch_size is {size} and {ranks.world} processes share it; choose a multiple of {ranks.world}"
        )


def _weights_of(init: Path, replaced: Path | None) -> Path:
    """The file to start from: `init` itself, or the newest checkpoint of that run."""
    if replaced is not None and Path(realpath(init)).is_relative_to(replaced.resolve()):
        raise UserError(
            f"--init {init}: --restart would discard that run; give the new one another directory with --run"
        )
    if init.is_file() or (init.suffix in FORMATS and not init.is_dir()):
        return init
    run = Run.open(init)
    return trained_weights(run).path if run.is_finished("train") else Checkpoints(run.checkpoints).latest()


def default_directory(recipe: Recipe) -> Path:
    """Where a recipe's run lies unless the user says otherwise."""
    return RUNS / recipe.name


def begun(recipe: Recipe, directory: Path) -> Run | None:
    """The run in a directory, None if there is none; raises `UserError` if it was begun with another recipe.

    Only what the weights depend on has to be the same: search and what suits a machine may change, and the device
    unless networks are drawn by its latency.
    """
    if not (directory / "manifest.json").exists():
        return None
    run = Run.open(directory)
    before = recipe_of(run)
    differing = learned_differences(before, with_range(recipe, run.manifest.range))
    if recipe.train.sampling.prior == "latency" and before.device != recipe.device:
        differing.append("device")
    if differing:
        raise UserError(
            f"{directory}: begun with another recipe ({differing[0]} differs); give another directory with --run, or "
            "start anew with --restart"
        )
    return run
