"""Searching a run: a request's budget against the run's supernet, with everything kept in the run.

Of searches in several precisions the best network of all is the run's result; scores are those of the networks in their
precision.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from torch.distributed.distributed_c10d import Store

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import InfeasibleBudget
from nasdeploy.core.paired import SampleScores
from nasdeploy.core.progress import Progress
from nasdeploy.core.score import Score
from nasdeploy.distributed import FailedElsewhere
from nasdeploy.distributed.coordinator import PulledScoring, leading
from nasdeploy.distributed.jobs import InTurn, Scoring, ScoringJob
from nasdeploy.distributed.ranks import met
from nasdeploy.distributed.worker import run_worker
from nasdeploy.latency.protocol import Timing
from nasdeploy.report.figures import draw_cuts, draw_front
from nasdeploy.report.networks import front_report
from nasdeploy.searching.finalists import FinalistJournal, SearchFacts, measure_networks, result_of
from nasdeploy.searching.loss_table import LossTable
from nasdeploy.searching.measured_losses import measure_losses
from nasdeploy.searching.outcome import Outcome
from nasdeploy.searching.predictors.predictor import load_predictor, save_predictor
from nasdeploy.searching.problem import Problem, candidates_of
from nasdeploy.searching.result import BudgetRecord, SearchResult
from nasdeploy.searching.search import Search
from nasdeploy.searching.strategies import StrategyContext
from nasdeploy.supernet.evaluate import Evaluator
from nasdeploy.workflows.evaluator import deploy_for, open_evaluator, supernet_of
from nasdeploy.workflows.request import SearchRequest
from nasdeploy.workflows.searches import keep, next_id

PICTURE, CUTS = "pareto.png", "cuts.png"
PREDICTOR = "predictor.npz"
LOSSES = "losses.json"
_FINALISTS = ".finalists.jsonl"


def search(request: SearchRequest, progress: Progress) -> SearchResult | None:
    """Search, and write search.json, searches/ID.json and pareto.png into the run; losses.json and cuts.png if need be.

    Started by `torchrun`, all processes evaluate what the first one asks for; only that one writes, and the others
    return None, or raise `FailedElsewhere` where it failed.
    """
    with met() as meeting:
        supernet = supernet_of(request.run, request.recipe, request.weights.facts)
        if meeting.store is None:
            return _search(request, supernet, progress, InTurn)
        if meeting.rank > 0:
            _help_out(request, _conditions(request, supernet), meeting.store, meeting.rank)
            return None
        with leading(meeting.store, meeting.world, _conditions(request, supernet)) as store:
            scoring = partial(
                PulledScoring, store=store, world=meeting.world, say=lambda text: progress.say(f"search: {text}")
            )
            return _search(request, supernet, progress, scoring)


def _search(request: SearchRequest, supernet: str, progress: Progress, scoring: Callable[..., Scoring]) -> SearchResult:
    run, recipe, weights = request.run, request.recipe, request.weights.path
    progress.say(f"search: {run.path}, {weights.name}, budget {request.budget}")
    with run.lock():
        with progress.stage("search: opening data and weights"):
            evaluator = open_evaluator(run, recipe, request.space, weights, recipe.search.score)
        losses = _losses(request, evaluator, supernet, progress)
        kept = FinalistJournal(run.path / _FINALISTS, request.tables)
        with request.evaluations(supernet) as evaluations, _until_it_ends(kept):
            outcome = Search(
                space=request.space,
                scoring=scoring(score=_score_of(evaluator), samples=evaluator.samples),
                evaluations=evaluations,
                budget=request.budget,
                tables=request.tables,
                measure=kept.around(lambda device, archs: _measure(request, evaluator, device, archs, progress)),
                settings=recipe.search,
                seed=recipe.seed,
                progress=progress,
                context=replace(strategy_context(request, supernet), losses=losses),
                sampled=lambda archs: _sampled(evaluator, archs, progress),
                deploy=deploy_for(request, evaluator, supernet, progress),
                candidates=tuple(evaluator.own),
            ).run()
            result = _written(request, supernet, outcome, evaluator)
        if losses is not None:
            draw_cuts(Problem(request.space, request.budget, *outcome.tables), losses, run.path / CUTS)
        return result


def strategy_context(request: SearchRequest, supernet: str) -> StrategyContext:
    """Return what a run has for strategies: its predictor, and the place where the next one is kept.

    Raises `UserError` if the recipe names a predictor that is damaged, or of another space, supernet (a digest) or
    `search.score`.
    """
    path, settings = request.run.path / PREDICTOR, request.recipe.search
    file, score = settings.predictor_file, settings.score
    known = None if file is None else load_predictor(Path(file), request.space, supernet, score)
    return StrategyContext(predictor=known, keep=partial(save_predictor, path, supernet=supernet, criterion=score))


def _losses(request: SearchRequest, evaluator: Evaluator, supernet: str, progress: Progress) -> LossTable | None:
    """Return the run's table of loss, measured to its end, if the search goes by one."""
    if not request.recipe.search.goes_by_losses:
        return None
    return measure_losses(evaluator, request.run.path / LOSSES, supernet, progress)


def _conditions(request: SearchRequest, supernet: str) -> str:
    """Return what is equal in processes that score networks alike, in one word.

    That is the supernet (its digest), what networks are ranked by, and which of the held-out samples are the first.
    """
    settings = request.recipe.search
    return f"{supernet}:{settings.score}:{'unshuffled' if settings.halving == 1 else 'shuffled'}"


def _help_out(request: SearchRequest, conditions: str, store: Store, rank: int) -> None:
    """Evaluate what the first process asks for, until it ends."""

    def open_score() -> Callable[[ScoringJob], Score]:
        recipe = request.recipe
        return _score_of(open_evaluator(request.run, recipe, request.space, request.weights.path, recipe.search.score))

    code = run_worker(store, rank, request.space, open_score, conditions)
    if code:
        raise FailedElsewhere(code)


def _score_of(evaluator: Evaluator) -> Callable[[ScoringJob], Score]:
    return lambda job: evaluator(job.arch, job.first, job.end)


def _sampled(evaluator: Evaluator, archs: Sequence[Arch], progress: Progress) -> dict[Arch, SampleScores]:
    """Return what networks are worth on each of the held-out samples, if the task says so."""
    found = {}
    with progress.task("differences between finalists", len(archs)) as task:
        for arch in archs:
            scores = evaluator.sample_scores(arch)
            if scores is None:
                return {}
            found[arch] = scores
            task.advance()
    return found


@contextmanager
def _until_it_ends(kept: FinalistJournal) -> Iterator[None]:
    """Keeps timings of a search that is stopped, and of no other."""
    try:
        yield
    except InfeasibleBudget:
        kept.remove()
        raise
    kept.remove()


def _written(request: SearchRequest, supernet: str, outcome: Outcome, evaluator: Evaluator) -> SearchResult:
    run = request.run
    problem = Problem(request.space, request.budget, *outcome.tables)
    # The tables know more now than when the candidates were found.
    known = candidates_of(problem, [c.arch for c in outcome.candidates], [c.evaluation for c in outcome.candidates])
    result = result_of(
        outcome,
        problem,
        known,
        request.tables,
        SearchFacts(
            id=next_id(run),
            supernet=supernet,
            weights=request.weights.facts,
            unreadable=evaluator.unreadable,
            original=next(iter(evaluator.own), None),
            settings=request.recipe.search,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )
    keep(run, result)
    draw_front(
        front_report(result),
        result.metric,
        [(problem.axis.cost.scale * c.costs[problem.axis.name], c.evaluation.score.value) for c in known],
        run.path / PICTURE,
    )
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
    targets = zip(request.devices, request.tables, strict=True)
    ((target, table),) = (pair for pair in targets if pair[0].name == device)
    timings = measure_networks(archs, evaluator.network, request.space, target, progress)
    request.run.require_there()
    usual = {arch: table.as_when_profiled(timing) for arch, timing in timings.items()}
    busier = median(timings[arch].median / usual[arch].median for arch in archs)
    if busier > _BUSIER:
        progress.say(
            f"search: medians on {device} are {busier:.2f} times what they were when it was as quiet as when it was "
            "profiled; networks are judged as they would be then"
        )
    return usual


_BUSIER = 1.1
"""Medians this many times as long are worth a word."""


def search_all(requests: Sequence[SearchRequest], progress: Progress) -> SearchResult | None:
    """Search in each precision; return the result with the best winner, which is the run's result from then on.

    None in processes that only help, which there are for a single request. Raises `InfeasibleBudget` if no search finds
    a network that meets the budget when it is measured.
    """
    if len(requests) == 1:
        return search(requests[0], progress)
    outcomes = search_each(requests, progress)
    refusals = [outcome for outcome in outcomes if isinstance(outcome, InfeasibleBudget)]
    if len(refusals) == len(outcomes):
        raise refusals[0]
    for outcome in outcomes:
        if isinstance(outcome, SearchResult):
            progress.say(_told(outcome))
    return keep_best(requests, outcomes)


def search_each(requests: Sequence[SearchRequest], progress: Progress) -> list[SearchResult | InfeasibleBudget]:
    """Return the result of each search, or that no network met its budget when it was measured, which is said."""
    outcomes: list[SearchResult | InfeasibleBudget] = []
    for request in requests:
        try:
            result = search(request, progress)
            assert result is not None  # There is one process, which has the result.
            outcomes.append(result)
        except InfeasibleBudget as error:
            outcomes.append(error)
            progress.say(f"search: {error}")
    return outcomes


def keep_best(requests: Sequence[SearchRequest], outcomes: Sequence[SearchResult | InfeasibleBudget]) -> SearchResult:
    """Make the result with the best winner the run's, and return it; there is one at least."""
    pairs = zip(requests, outcomes, strict=True)
    found = [(request, outcome) for request, outcome in pairs if isinstance(outcome, SearchResult)]
    request, best = max(found, key=lambda pair: _merit(pair[1]))
    with request.run.lock():
        keep(request.run, best)
        request.run.finish("search", facts(request))
    return best


def _merit(result: SearchResult) -> tuple[float, float]:
    """Return the key that orders results, larger for better ones: what networks were ranked by, then the speed."""
    winner = result.winner
    rank = result.metric.gain(winner.final_value) if winner.penalty is None else -winner.penalty
    return rank, -(winner.measured_ms or 0.0)


def _told(result: SearchResult) -> str:
    winner = result.winner
    score = f"{winner.digest} with {result.metric.text(winner.final_value)}"
    return f"search: in {result.precision}, {score} at {winner.measured_ms:.4g} ms"
