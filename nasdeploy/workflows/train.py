"""Training a run, taking up where it was stopped."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress, quantity
from nasdeploy.core.space import SearchSpace
from nasdeploy.data.settings import ValueBounds
from nasdeploy.distributed.ranks import Ranks, joined
from nasdeploy.latency.table import find_table
from nasdeploy.recipe import Recipe, with_range
from nasdeploy.runtimes.device import load_device
from nasdeploy.store.run import RUNS, RememberedData, Run
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.tasks import task_of
from nasdeploy.tasks.task import Task, TaskData
from nasdeploy.training.monitor import require_tensorboard
from nasdeploy.training.phase import Phase, require_trainable
from nasdeploy.training.sampling import SamplerContext, networks_to_validate, sampler_from
from nasdeploy.training.settings import TrainSettings
from nasdeploy.training.trainer import Trainer
from nasdeploy.training.trial import Trial
from nasdeploy.workflows.resume import hand_on, leave_out_damaged, lines_on_range, measured_for, unfinished
from nasdeploy.workflows.start import beginning, knows
from nasdeploy.workflows.teacher import described, open_teachers


def default_directory(recipe: Recipe) -> Path:
    """Return where a recipe's run lies unless the user says otherwise."""
    return RUNS / recipe.name


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
    the space. A finished run whose weights are lost or damaged goes on from the last whole checkpoint. Raises
    `UserError` for a run that is finished or of another recipe, unless `restart` discards it; that happens only when
    everything else was found to be right.
    Started by `torchrun`, all processes share each batch; only the first one writes, and the others return None;
    where several find the same mistake, one raises it and the others `FailedElsewhere`.
    """
    with joined() as ranks:
        request = _Request(recipe, directory, init, restart, require)
        run = _train(request, ranks, progress if ranks.first else Progress(quiet=True))
        return run if ranks.first else None


@dataclass(frozen=True)
class _Request:
    """What is asked of one training."""

    recipe: Recipe
    """The recipe as it was written."""
    directory: Path
    init: Path | None
    restart: bool
    require: Callable[[SearchSpace], None]

    @property
    def task(self) -> Task:
        """The task that the recipe names."""
        return task_of(self.recipe.task)

    @cached_property
    def measured(self) -> ValueBounds | None:
        """The range of values that `data.range: measured` stands for; None if the recipe asks for no such thing."""
        return measured_for(self.recipe, self.directory, self.restart)

    @cached_property
    def trained(self) -> Recipe:
        """The recipe that is trained: with the measured range, if one was."""
        return with_range(self.recipe, self.measured)


def _train(request: _Request, ranks: Ranks, progress: Progress) -> Run:
    with ranks.agreed(), progress.stage("train: opening data and weights"):
        recipe = request.trained
        prepared = _prepare(request, ranks)
    with ranks.agreed():
        if ranks.first:
            _begin(request, prepared, progress)
    with ExitStack() as held:
        with ranks.agreed():
            run = _run_of_all(request.directory, ranks)
            # The first process split the data, or took them as the run remembers them; the others see that only now.
            data = prepared.data if ranks.first else request.task.open(recipe.data, recipe.seed, run)
            if ranks.first:
                held.enter_context(run.lock())
        trainer = Trainer(
            space=prepared.space,
            task=request.task,
            data=data,
            settings=recipe.train,
            recalibration=recipe.recalibration,
            seed=recipe.seed,
            phases=prepared.phases,
            directory=run,
            progress=progress,
            ranks=ranks,
        )
        metrics = trainer.run(prepared.begin)
        if ranks.first:
            facts = {**metrics, **_teacher_facts(request, prepared.trials)}
            run.finish("train", hand_on(run, facts, progress))
    return run


@dataclass(frozen=True)
class _Prepared:
    """What training needs and was found to be right."""

    data: TaskData
    space: SearchSpace
    phases: tuple[Phase, ...]
    trials: Mapping[str, Trial]
    """The trial of each teacher, by its name; only the first process tries them."""
    begin: Callable[[Supernet], None]
    """The function that gives a new supernet the weights that it begins with."""
    begun: Run | None
    """The run to go on with; only the first process looks for it."""


def _prepare(request: _Request, ranks: Ranks) -> _Prepared:
    """Check everything before the run is begun; raises `UserError` for whatever is wrong."""
    recipe, directory, restart = request.trained, request.directory, request.restart
    _require_share(recipe, ranks)
    require_tensorboard(recipe.train)
    begun_before = None if restart or not ranks.first else unfinished(recipe, directory)
    data = request.task.open(recipe.data, recipe.seed, begun_before)
    space = recipe.load_space(data.outputs)
    request.require(space)
    begin = beginning(recipe, space, data.labels, request.init, directory if restart else None)
    started = recipe.start is not None or request.init is not None
    for settings in recipe.train.of_phases:
        require_trainable(settings, space, started=started)
    contexts = [_context(recipe, space, settings) for settings in recipe.train.of_phases]
    samplers = [sampler_from(context) for context in contexts]
    batch = max(1, min(recipe.train.batch_size, data.train_samples) // ranks.world)
    teachers, trials = open_teachers(recipe, data, batch, ranks)
    names: list[str | None] = [phase.name for phase in recipe.train.phases]
    phases = tuple(
        Phase(name, context.settings, sampler, networks_to_validate(context), teacher)
        for name, context, sampler, teacher in zip(names or [None], contexts, samplers, teachers, strict=True)
    )
    return _Prepared(data, space, phases, trials, begin, begun_before)


def _begin(request: _Request, prepared: _Prepared, progress: Progress) -> None:
    """Create the run, or go on with it, and say what is trained on what."""
    if request.restart:
        Run.discard(request.directory)
    data, space, samples = prepared.data, prepared.space, request.task.metric.samples
    if prepared.begun is not None:
        with prepared.begun.lock():
            leave_out_damaged(prepared.begun, progress)
    run = prepared.begun or _create(request, data, space)
    for note in (*data.notes, *lines_on_range(request.recipe, request.measured, data)):
        progress.say(f"data: {note}")
    classes = f" of {len(data.labels)} classes" if data.labels else ""
    progress.say(
        f"train: {run.path}, {data.train_samples} {samples}{classes}, "
        f"space {space.name} with {quantity(space.networks)} architectures"
    )
    if request.init is not None and prepared.begun is None:
        kept = knows(request.init, data.labels)
        classifier = "its classifier, which learned the same classes" if kept else "a new classifier"
        progress.say(f"train: begins with the weights of {request.init} and {classifier}")
    for name, trial in prepared.trials.items():
        progress.say(described(name, trial))


def _teacher_facts(request: _Request, trials: Mapping[str, Trial]) -> dict[str, Any]:
    """Return what a finished training says of its last teacher: its name, and its accuracy on some training images."""
    metric = request.task.metric
    facts = [{"name": name, metric.key: trial.share, metric.samples: trial.images} for name, trial in trials.items()]
    return {"teacher": facts[-1]} if facts else {}


def _run_of_all(directory: Path, ranks: Ranks) -> Run:
    """Open the run that the first process began; raises `UserError` where this one does not see it."""
    try:
        return Run.open(directory)
    except UserError as error:
        if ranks.first:
            raise
        raise UserError(
            f"{directory}: another host began the run there, and this one does not see it ({error}); give a directory "
            "that all hosts share with `run`"
        ) from None


def _context(recipe: Recipe, space: SearchSpace, settings: TrainSettings) -> SamplerContext:
    """Return what a phase's sampler is made from; raises `UserError` if it needs a latency table and there is none."""
    latency = settings.sampling.prior == "latency"
    table = find_table(space, load_device(recipe.device)) if latency else None
    return SamplerContext(space, settings, recipe.seed, table)


def _create(request: _Request, data: TaskData, space: SearchSpace) -> Run:
    recipe = request.recipe
    remembered: RememberedData = {
        "range": request.measured,
        "outputs": None if data.labels else data.outputs,
        **data.record(),
    }
    return Run.create(
        request.directory.parent,
        request.directory.name,
        recipe=recipe.to_json(),
        space=space.digest,
        seed=recipe.seed,
        **remembered,
    )


def _require_share(recipe: Recipe, ranks: Ranks) -> None:
    """Raise `UserError` unless each process gets equally many images of a batch."""
    size = recipe.train.batch_size
    if size % ranks.world:
        raise UserError(
            f"train.batch_size is {size} and {ranks.world} processes share it; choose a multiple of {ranks.world}"
        )
