"""Training one network of a run further alone, from the weights that it inherits, with the run's original as teacher.

It is a training like any other, in a run of its own below RUN/finetune, of the space that holds that network alone: it
resumes where it was stopped. The network that comes of it is kept in RUN/networks and exported from then on; one that
does worse on the held-out samples than before is not, so that the inherited weights stay. When it is finished its
checkpoints, which are several times as large as the network, are removed.
"""

import shutil
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.core.score import Metric, Score
from nasdeploy.core.space import SearchSpace
from nasdeploy.distributed import processes
from nasdeploy.distributed.ranks import Ranks
from nasdeploy.nn.network import Network, compute_device
from nasdeploy.recipe import Recipe, learned_differences, parse_recipe, space_of
from nasdeploy.spaces.fixed import FixedSpace
from nasdeploy.store.checkpoints import Weights, checkpoint_files, trained_weights
from nasdeploy.store.files import writable, write_json
from nasdeploy.store.networks import (
    FINETUNED,
    FinetuneRecord,
    HeldOutScore,
    KeptNetwork,
    NetworkFacts,
    finetune_directory,
    finetune_record,
    kept_original,
    remove_network,
)
from nasdeploy.store.run import Run
from nasdeploy.supernet.networks import inherit, keep_network
from nasdeploy.supernet.supernet import extract
from nasdeploy.supernet.weights import load_supernet
from nasdeploy.tasks import task_of
from nasdeploy.tasks.task import Task
from nasdeploy.training.checkpoint import Checkpoints
from nasdeploy.training.finetuning import DEFAULT_EPOCHS
from nasdeploy.training.optimizer import layout_of
from nasdeploy.training.original import teacher_of
from nasdeploy.training.phase import Phase
from nasdeploy.training.sampling import SamplerContext, networks_to_validate, sampler_from
from nasdeploy.training.settings import TrainSettings
from nasdeploy.training.trainer import Trainer
from nasdeploy.workflows.evaluator import open_evaluator
from nasdeploy.workflows.export import ExportRequest, network_asked_for
from nasdeploy.workflows.resume import leave_out_damaged, trained_facts


@dataclass(frozen=True)
class FinetuneRequest:
    """A network of a run that is to be trained further alone."""

    run: Run
    recipe: Recipe
    """The run's recipe, with what was changed for this call."""
    space: SearchSpace
    arch: Arch
    weights: Weights
    """The supernet's."""

    @classmethod
    def of(cls, request: ExportRequest) -> "FinetuneRequest":
        """Return the request to train what is to be exported."""
        return cls(request.run, request.recipe, request.space, request.arch, request.weights)

    @property
    def epochs(self) -> int:
        """The epochs that the recipe says, or `DEFAULT_EPOCHS` where it has none."""
        return self.recipe.finetune.epochs or DEFAULT_EPOCHS

    @property
    def directory(self) -> Path:
        """The directory of the training, a run of its own."""
        return finetune_directory(self.run, self.arch.digest)

    @property
    def task(self) -> Task:
        """The task that the recipe names."""
        return task_of(self.recipe.task)

    @cached_property
    def original(self) -> KeptNetwork | None:
        """The run's original, if it has one; raises `UserError` if that is damaged."""
        return kept_original(self.run)

    @property
    def taught(self) -> bool:
        """Whether it learns from the original, too."""
        return self.original is not None and self.recipe.finetune.teacher == "original"

    @property
    def of_original(self) -> bool:
        """Whether it is the original itself that is trained further."""
        return self.original is not None and self.original.record.digest == self.arch.digest

    @cached_property
    def settings(self) -> TrainSettings:
        """The settings of the training."""
        return self.recipe.finetune.training(self.arch, self.epochs, self.recipe.train, taught=self.taught)

    @property
    def trained(self) -> Recipe:
        """The recipe of the training."""
        return self.recipe.model_copy(update={"train": self.settings})


@dataclass(frozen=True)
class Finetuned:
    """What a fine-tuning came to."""

    arch: Arch
    """The architecture."""
    record: FinetuneRecord
    """The scores before and after, and whether the new weights are kept."""
    metric: Metric
    """What the scores measure."""

    @property
    def text(self) -> str:
        """What came of it, for people."""
        return self.record.text(self.metric)

    def to_json(self) -> dict[str, Any]:
        """Return plain values, the scores under the metric's name."""
        fields = self.record.model_dump(mode="json")
        return {**fields, "metric": self.metric.key}


def request_finetune(run: Run, recipe: Recipe, text: str | None, progress: Progress) -> FinetuneRequest:
    """Return the request to train the network that `text` means, by default the winner of the latest search.

    `recipe` is the run's, with what was changed for this call. Raises `UserError` if there is no such network, or no
    trained supernet.
    """
    if processes() > 1:
        raise UserError("torchrun: a network is fine-tuned by one process; leave torchrun out")
    space, weights = space_of(run, recipe), trained_weights(run)
    arch, _ = network_asked_for(run, recipe, space, text, lambda what: progress.say(f"finetune: {what}"))
    return FinetuneRequest(run, recipe, space, arch, weights)


def finetune(request: FinetuneRequest, progress: Progress, *, restart: bool = False) -> Finetuned:
    """Train a network further alone, resuming if that was begun, and keep it in the run unless it became worse.

    Raises `UserError` if it is finished, or was begun with other settings, unless `restart` discards it.
    """
    with request.run.lock():
        if restart:
            Run.discard(request.directory)
            remove_network(request.run, "finetuned", request.arch.digest)
        elif (done := _finished(request)) is not None:
            raise UserError(
                f"{request.directory}: {done.text}; it is finished: go on with `nd.export()`, or train it anew with "
                "`restart=True`"
            )
        return _finetuned(request, progress)


def ensure_finetuned(request: FinetuneRequest, progress: Progress) -> Finetuned:
    """Return what a finished fine-tuning came to, or train the network now; raises `UserError` for other settings."""
    with request.run.lock():
        done = _finished(request)
        if done is not None:
            progress.say(f"finetune: {done.text}")
            return done
        return _finetuned(request, progress)


def _finished(request: FinetuneRequest) -> Finetuned | None:
    """Return what a fine-tuning by these settings came to, None if it is not finished.

    Checkpoints that a process left which was killed at its end, or an earlier version, are removed. Raises `UserError`
    if it was begun with other settings.
    """
    tuned = None
    if (request.directory / "manifest.json").exists():
        tuned = Run.open(request.directory)
        before = parse_recipe(tuned.manifest.recipe, f"{tuned.path}/manifest.json")
        if differing := learned_differences(before, request.trained):
            raise UserError(
                f"{tuned.path}: begun with other settings ({differing[0]} differs); give those, or fine-tune anew with "
                "`nd.finetune(restart=True)`"
            )
    record = finetune_record(request.run, request.arch.digest)
    if record is None:
        return None
    if tuned is not None:
        _remove_checkpoints(tuned)
    return Finetuned(request.arch, record, request.task.metric)


def _remove_checkpoints(tuned: Run) -> None:
    if tuned.is_finished("train") and tuned.checkpoints.is_dir():
        with writable(tuned.checkpoints):
            shutil.rmtree(tuned.checkpoints)


def _finetuned(request: FinetuneRequest, progress: Progress) -> Finetuned:
    run, arch = request.run, request.arch
    with progress.stage("finetune: opening data and weights"):
        evaluator = open_evaluator(run, request.recipe, request.space, request.weights.path)
    with progress.stage("finetune: the network as it is"):
        before = evaluator(arch)
    how = "with the original as teacher" if request.taught else "by the labels"
    score = f"{before.metric.name} before {before.text}"
    progress.say(f"finetune: {run.path}, {arch.digest} {how}, epochs: {request.epochs}; {score}")
    tuned = _begun(request)
    with tuned.lock():
        leave_out_damaged(tuned, progress)
        metrics = _trainer(request, tuned, progress).run(partial(inherit, network=evaluator.extracted(arch)))
        scoring = evaluator.having({arch: _network(request, tuned)})
        after = scoring(arch)
        kept = after.gain >= before.gain
        if kept:
            keep_network(run, arch, scoring.network(arch), _facts(request, before, after))
        record = FinetuneRecord(
            digest=arch.digest,
            arch=arch.to_json(),
            epochs=request.epochs,
            before=HeldOutScore.of(before),
            after=HeldOutScore.of(after),
            kept=kept,
        )
        write_json(tuned.path / FINETUNED, record.model_dump(mode="json"))
        tuned.finish("train", trained_facts(tuned, metrics, progress))
        _remove_checkpoints(tuned)
    return Finetuned(arch, record, before.metric)


def _facts(request: FinetuneRequest, before: Score, after: Score) -> NetworkFacts:
    original = request.original if request.of_original else None
    return NetworkFacts(
        kind="finetuned",
        epochs=request.epochs,
        checkpoint=request.weights.facts if original is None else original.record.checkpoint,
        inherited="supernet" if original is None else "original",
        before=HeldOutScore.of(before),
        after=HeldOutScore.of(after),
    )


def _begun(request: FinetuneRequest) -> Run:
    """Return the run of the training, which is created if it is not there.

    One that is finished, whose network was lost since, begins again, which ends in the same weights.
    """
    run, directory = request.run, request.directory
    if (directory / "manifest.json").exists():
        tuned = Run.open(directory)
        if checkpoint_files(tuned.checkpoints) or not tuned.is_finished("train"):
            return tuned
        Run.discard(directory)
    return Run.create(
        directory.parent,
        directory.name,
        recipe=request.trained.to_json(),
        space=FixedSpace(request.space, request.arch).digest,
        classes=run.manifest.classes,
        outputs=run.manifest.outputs,
        images=run.manifest.images,
        seed=request.recipe.seed,
    )


def _trainer(request: FinetuneRequest, tuned: Run, progress: Progress) -> Trainer:
    recipe, settings, task = request.recipe, request.settings, request.task
    ranks = Ranks(compute_device())
    space = FixedSpace(request.space, request.arch)
    context = SamplerContext(space, settings, recipe.seed)
    layout = layout_of(settings, ranks.device)
    teacher = teacher_of(request.run, request.space, task, ranks.device, layout) if request.taught else None
    with progress.stage("finetune: opening the data"):
        data = task.open(recipe.data, recipe.seed, request.run)
    return Trainer(
        space=space,
        task=task,
        data=data,
        settings=settings,
        recalibration=recipe.recalibration,
        seed=recipe.seed,
        phases=(Phase(None, settings, sampler_from(context), networks_to_validate(context), teacher),),
        directory=tuned,
        progress=progress,
        ranks=ranks,
    )


def _network(request: FinetuneRequest, tuned: Run) -> Network:
    """Return the network that the training ended with, where networks are computed."""
    space = FixedSpace(request.space, request.arch)
    supernet = load_supernet(Checkpoints(tuned.checkpoints).latest(), space)
    return extract(supernet, request.arch).to(compute_device())
