"""Searching a run: the request's budget against the run's supernet, with everything kept in the run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from typing import Any

from nasdeploy.arch import Arch
from nasdeploy.evaluate import Evaluator
from nasdeploy.latency.measure import Timing
from nasdeploy.latency.table import LatencyTable
from nasdeploy.progress import Progress
from nasdeploy.report.pareto import draw_front
from nasdeploy.search.budget import Problem
from nasdeploy.search.finalists import measure_networks
from nasdeploy.search.front import Candidate, candidates_of, pareto_front
from nasdeploy.search.result import BudgetRecord, Found, SearchResult
from nasdeploy.search.search import Outcome, Search
from nasdeploy.steps.evaluator import open_evaluator, supernet_id
from nasdeploy.steps.request import SearchRequest
from nasdeploy.store.evaluations import Evaluations
from nasdeploy.store.files import write_json
from nasdeploy.train.checkpoint import Checkpoints

PICTURE = "pareto.png"


def search(request: SearchRequest, progress: Progress) -> SearchResult:
    """Search, and write search.json and pareto.png into the run."""
    run, recipe = request.run, request.recipe
    weights = Checkpoints(run.checkpoints).latest()
    progress.say(f"search: {run.path}, {weights.name}, budget {request.budget}")
    with run.lock():
        evaluator = open_evaluator(run, recipe, request.space, weights)
        supernet = supernet_id(recipe, weights)
        with Evaluations(run.search_database, supernet) as evaluations:
            task = Search(
                space=request.space,
                score=evaluator,
                evaluations=evaluations,
                budget=request.budget,
                table=request.table,
                measure=lambda archs: _measure(request, evaluator, archs, progress),
                settings=recipe.search,
                seed=recipe.seed,
                progress=progress,
            )
            outcome = task.run()
            fitting = [candidate for candidate in outcome.finalists if task.meets(candidate.arch)]
        problem = Problem(request.space, request.budget, outcome.table)
        # The table knows more now than when the candidates were found.
        known = candidates_of(problem, [c.arch for c in outcome.candidates], [c.evaluation for c in outcome.candidates])
        result = _result(request, supernet, outcome, fitting, pareto_front(known, problem.axis))
        write_json(run.search_result, result.model_dump(mode="json"))
        draw_front(result, [(c.costs[problem.axis], c.evaluation.top1) for c in known], run.path / PICTURE)
        run.finish("search", facts(request))
    return result


def facts(request: SearchRequest) -> dict[str, Any]:
    """What a finished search was asked for; the result itself lies beside the run's manifest."""
    return {
        "budget": asdict(request.budget),
        "device": request.device.name if request.device else None,
        "settings": request.recipe.search.model_dump(mode="json"),
        "recalibration": request.recipe.recalibration.model_dump(mode="json"),
    }


def _measure(
    request: SearchRequest, evaluator: Evaluator, archs: Sequence[Arch], progress: Progress
) -> Mapping[Arch, Timing]:
    assert request.device is not None
    return measure_networks(archs, evaluator.network, request.device, progress)


def _result(
    request: SearchRequest,
    supernet: str,
    outcome: Outcome,
    fitting: Sequence[Candidate],
    front: Sequence[Candidate],
) -> SearchResult:
    budget, winner = request.budget, outcome.winner
    ties = [
        c.arch.digest
        for c in fitting
        if c is not winner and winner.evaluation.top1 - c.evaluation.top1 <= winner.evaluation.top1_error
    ]

    def found(candidate: Candidate) -> Found:
        return _found(candidate, outcome.table, outcome.timings.get(candidate.arch))

    return SearchResult(
        supernet=supernet,
        space=request.space.digest,
        device=request.device.name if request.device else None,
        budget=BudgetRecord(
            latency_ms=None if budget.latency is None else 1e3 * budget.latency,
            macs_m=None if budget.macs is None else budget.macs / 1e6,
            params_m=None if budget.params is None else budget.params / 1e6,
        ),
        rounds=outcome.rounds,
        evaluated=len(outcome.candidates),
        images=winner.evaluation.images,
        winner=found(winner),
        ties=tuple(ties),
        finalists=tuple(found(c) for c in outcome.finalists),
        front=tuple(found(c) for c in front),
    )


def _found(candidate: Candidate, table: LatencyTable | None, timing: Timing | None) -> Found:
    evaluation = candidate.evaluation
    return Found(
        digest=candidate.arch.digest,
        arch=candidate.arch.to_json(),
        top1=evaluation.top1,
        top1_error=evaluation.top1_error,
        cross_entropy=evaluation.cross_entropy if isfinite(evaluation.cross_entropy) else None,
        macs=int(candidate.costs[1]),
        params=int(candidate.costs[2]),
        predicted_ms=1e3 * candidate.costs[0] if table else None,
        measured_ms=1e3 * timing.median if timing else None,
        measured_p90_ms=1e3 * timing.p90 if timing else None,
    )
