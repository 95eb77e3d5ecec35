"""Accuracies of finalists as their device computes them, on the images that the search scores on.

Only int8 is scored: fp16 differs from fp32 by less than such a measurement does. All layers are in int8, as in the
networks whose latency is measured; an export may keep some in fp32.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import Plan
from nasdeploy.core.progress import Progress
from nasdeploy.core.score import Score
from nasdeploy.data.images import ImageSets
from nasdeploy.distributed.jobs import InTurn
from nasdeploy.exporting.compare import Disagreement, logits_of
from nasdeploy.exporting.conversions import Conversions, scoring_device
from nasdeploy.exporting.pictures import examples_of
from nasdeploy.nn.network import fit_images
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.runtime import Session
from nasdeploy.searching.search import Deploy
from nasdeploy.searching.successive_halving import Evaluating
from nasdeploy.store.evaluations import Evaluation, Evaluations
from nasdeploy.supernet.evaluate import Evaluator
from nasdeploy.supernet.supernet import input_side
from nasdeploy.workflows.request import SearchRequest
from nasdeploy.workflows.run_data import open_data_of


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
            Evaluations(path / f"search.int8.{runtime}.sqlite", supernet, request.metric) as kept,
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
        """Return the logits `[N, classes]` of images, on the CPU."""
        (images,) = fit_images(self.plan.part(part), inputs)
        return (torch.from_numpy(logits_of(self.session, images.numpy(force=True))),)


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
