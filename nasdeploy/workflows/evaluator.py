"""How the architectures of a run are scored, the same in every step, and what a score depends on.

Finalists of a search in int8 are scored as their device computes them, on the images that the search scores on. Only
int8 is: fp16 differs from fp32 by less than such a measurement does. All layers are in int8, as in the networks whose
latency is measured; an export may keep some in fp32.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import Plan
from nasdeploy.core.progress import Progress
from nasdeploy.core.score import Criterion, Score
from nasdeploy.core.space import SearchSpace
from nasdeploy.data.batches import Memory
from nasdeploy.data.images import ImageSets
from nasdeploy.data.settings import DataSettings
from nasdeploy.distributed.jobs import InTurn
from nasdeploy.exporting.conversions import Conversions, scoring_device
from nasdeploy.exporting.deliverables import examples_of
from nasdeploy.exporting.record import Disagreement, logits_of
from nasdeploy.nn.network import Network, compute_device, fit_images, keep_freed_memory, set_threads
from nasdeploy.recipe import Recipe, recipe_of
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.runtime import Session
from nasdeploy.searching.search import Deploy, Evaluating
from nasdeploy.store.checkpoints import WeightsFacts
from nasdeploy.store.evaluations import Evaluation
from nasdeploy.store.networks import KeptNetwork, kept_original
from nasdeploy.store.run import Run
from nasdeploy.supernet.evaluate import Evaluator
from nasdeploy.supernet.networks import load_network
from nasdeploy.supernet.supernet import input_side
from nasdeploy.supernet.weights import load_supernet
from nasdeploy.tasks import task_of
from nasdeploy.workflows.request import SearchRequest
from nasdeploy.workflows.resume import open_data_of


def open_evaluator(
    run: Run, recipe: Recipe, space: SearchSpace, weights: Path, criterion: Criterion = "metric"
) -> Evaluator:
    """Return what scores architectures of a run's supernet on the training samples that are held out for the search.

    The run's original, if it has one, is scored with its own weights; a `criterion` that compares outputs with those of
    the original needs one. Raises `UserError` for damaged weights, and for data that is missing or not that of the run.
    """
    set_threads(recipe.train.threads)
    keep_freed_memory()
    task, settings, device = task_of(recipe.task), recipe.recalibration, compute_device()
    data = task.open(recipe.data, recipe.seed, run)
    memory = Memory(int(recipe.search.cache_gib * (1 << 30)))
    calibration = data.calibration(settings.batch_size, settings.search_batches, recipe.seed, device, memory)
    # Where networks are stopped after some samples, the first ones have to stand for all.
    seed = None if recipe.search.halving == 1 else recipe.seed
    held_out = data.held_out(recipe.search.batch_size, seed, device, memory)
    samples = len(held_out) if task.metric.is_mean else 0
    supernet = load_supernet(weights, space).to(device)
    own = {arch: network.to(device) for arch, network in _original(run, space)}
    evaluator = Evaluator(supernet, task, calibration, held_out, samples, held_out.unreadable, own)
    return evaluator.averaging(settings.average).ranking_by(criterion)


def _original(run: Run, space: SearchSpace) -> Iterator[tuple[Arch, Network]]:
    """Yield the run's original by its architecture, if it has one; raises `UserError` if that is damaged."""
    if (kept := kept_original(run)) is not None:
        yield kept.arch(space), load_network(kept, space)


def supernet_of(run: Run, recipe: Recipe, weights: WeightsFacts) -> str:
    """Return the `supernet_id` of a run's recipe as it was changed for one call.

    Where unreadable images stop a search nothing is evaluated, so that leaving them out makes no other supernet.
    """
    begun_with, data = recipe_of(run).data, recipe.data
    if isinstance(data, DataSettings) and isinstance(begun_with, DataSettings):
        data = data.model_copy(update={"on_unreadable": begun_with.on_unreadable})
    return supernet_id(recipe.model_copy(update={"data": data}), weights, kept_original(run))


def supernet_id(recipe: Recipe, weights: WeightsFacts, original: KeptNetwork | None = None) -> str:
    """Return a digest that changes with the weights and with everything else that a score depends on.

    `original` is the run's network that is scored with its own weights, if there is one.
    """
    conditions = [
        weights.sha256,
        recipe.seed,
        # Where samples lie, how many processes read them, how large they may be and whether they are kept decoded
        # changes nothing, and an export's batches only the export. Defaults are left out, so that a setting that is
        # new in some version does not make earlier evaluations those of another supernet.
        recipe.data.model_dump(mode="json", exclude={"path", "workers", "max_pixels", "cache"}, exclude_defaults=True),
        recipe.recalibration.model_dump(exclude={"batches"}),
        # None where there is no such network, as in all runs of earlier versions.
        *([] if original is None else [original.record.sha256]),
    ]
    return sha256(json.dumps(conditions, sort_keys=True).encode()).hexdigest()[:16]


def deploy_for(request: SearchRequest, evaluator: Evaluator, supernet: str, progress: Progress) -> Deploy:
    """How finalists of a search are scored as the first device computes them; `supernet` is the supernet's digest.

    What was scored is kept in the run, and not scored again.
    """
    if not request.devices or request.devices[0].precision != "int8":
        return lambda archs: {}
    runtime, path = request.devices[0].runtime, request.run.path

    def deploy(archs: Sequence[Arch]) -> Mapping[Arch, Evaluation]:
        sets = open_data_of(request.run, request.recipe)
        scoring = InTurn(lambda job: _score(job.arch, request, evaluator, sets, runtime))
        with (
            request.evaluations(supernet, path / f"search.int8.{runtime}.sqlite") as kept,
            progress.task("accuracy of finalists in int8", len(archs)) as task,
        ):
            evaluate = Evaluating(scoring, kept, done=lambda _: task.advance())
            return dict(zip(archs, evaluate(archs), strict=True))

    return deploy


@dataclass(frozen=True)
class _Classifier:
    """A session of a network of one part as what computes it; it raises `Disagreement` where the runtime gives up."""

    plan: Plan
    session: Session

    def run(self, part: str, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the logits `[N, classes]` of images, where these are."""
        (images,) = fit_images(self.plan.part(part), inputs)
        return (torch.from_numpy(logits_of(self.session, images.numpy(force=True))).to(images.device),)


def _score(arch: Arch, request: SearchRequest, evaluator: Evaluator, sets: ImageSets, runtime: str) -> Score:
    """The score of a network whose layers are all in int8, in its runtime."""
    network = evaluator.network(arch).to(device="cpu").to(memory_format=torch.contiguous_format)
    side = input_side(network.plan)
    conversions = Conversions(network, examples_of(sets, request.recipe.images, side))
    device = scoring_device(runtime)
    session = runtime_of(device).open(conversions.quantiser(runtime).quantised(), device)

    try:
        return evaluator.score_of(_Classifier(network.plan, session))
    except Disagreement as error:
        raise UserError(f"network {arch.digest} in int8: {error}; search on a device of another precision") from None
    finally:
        session.close()
