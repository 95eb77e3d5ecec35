"""Searching a run: the request's budget against the run's supernet, with everything kept in the run."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from nasdeploy.arch import Arch
from nasdeploy.errors import InfeasibleBudget
from nasdeploy.evaluate import Evaluator
from nasdeploy.latency.measure import Timing
from nasdeploy.progress import Progress
from nasdeploy.report.pareto import draw_front
from nasdeploy.search.evaluation import InTurn
from nasdeploy.search.finalists import measure_networks
from nasdeploy.search.front import candidates_of
from nasdeploy.search.kept import KeptTimings
from nasdeploy.search.problem import Problem
from nasdeploy.search.reporting import result_of
from nasdeploy.search.result import BudgetRecord, SearchResult
from nasdeploy.search.search import Outcome, Search
from nasdeploy.steps.evaluator import open_evaluator, supernet_id
from nasdeploy.steps.request import SearchRequest
from nasdeploy.steps.searches import keep, next_id
from nasdeploy.store.evaluations import Evaluations
from nasdeploy.train.checkpoint import Checkpoints

PICTURE = "pareto.png"
_FINALISTS = ".finalists.jsonl"


def search(request: SearchRequest, progress: Progress) -> SearchResult:
    """Search, and write search.json, searches/ID.json and pareto.png into the run."""
    run, recipe = request.run, request.recipe
    weights = Checkpoints(run.checkpoints).latest()
    progress.say(f"search: {run.path}, {weights.name}, budget {request.budget}")
    with run.lock():
        evaluator = open_evaluator(run, recipe, request.space, weights)
        supernet = supernet_id(recipe, weights)
        kept = KeptTimings(run.path / _FINALISTS, request.tables)
        with Evaluations(run.search_database, supernet) as evaluations, _until_it_ends(kept):
            outcome = Search(
                space=request.space,
                scoring=InTurn(lambda job: evaluator(job.arch, job.first, job.end), evaluator.images),
                evaluations=evaluations,
                budget=request.budget,
                tables=request.tables,
                measure=kept.around(lambda device, archs: _measure(request, evaluator, device, archs, progress)),
                settings=recipe.search,
                seed=recipe.seed,
                progress=progress,
            ).run()
        return _written(request, supernet, outcome)


@contextmanager
def _until_it_ends(kept: KeptTimings) -> Iterator[None]:
    """Keeps timings of a search that is stopped, and of no other."""
    try:
        yield
    except InfeasibleBudget:
        kept.remove()
        raise
    kept.remove()


def _written(request: SearchRequest, supernet: str, outcome: Outcome) -> SearchResult:
    run = request.run
    problem = Problem(request.space, request.budget, *outcome.tables)
    # The tables know more now than when the candidates were found.
    known = candidates_of(problem, [c.arch for c in outcome.candidates], [c.evaluation for c in outcome.candidates])
    result = result_of(
        outcome,
        problem,
        known,
        request.tables,
        id=next_id(run),
        supernet=supernet,
        settings=request.recipe.search,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    keep(run, result)
    draw_front(result, [(c.costs[problem.axis], c.evaluation.top1) for c in known], run.path / PICTURE)
    run.finish("search", facts(request))
    return result


def facts(request: SearchRequest) -> dict[str, Any]:
    """What a finished search was asked for; the result itself lies beside the run's manifest."""
    return {
        "budget": BudgetRecord.of(request.budget).model_dump(mode="json"),
        "devices": [device.name for device in request.devices],
        "settings": request.recipe.search.model_dump(mode="json"),
        "recalibration": request.recipe.recalibration.model_dump(mode="json"),
    }


def _measure(
    request: SearchRequest, evaluator: Evaluator, device: str, archs: Sequence[Arch], progress: Progress
) -> Mapping[Arch, Timing]:
    (target,) = (one for one in request.devices if one.name == device)
    return measure_networks(archs, evaluator.network, target, progress)
