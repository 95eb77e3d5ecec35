"""From what a search came to to its result, as it is written."""

from collections.abc import Mapping, Sequence
from math import isfinite

import numpy as np

from nasdeploy.core.arch import Arch
from nasdeploy.core.cost_registry import on_device
from nasdeploy.latency.calibration import held_out_error
from nasdeploy.latency.protocol import Timing
from nasdeploy.latency.table import LatencyTable
from nasdeploy.searching.front import Candidate, pareto_front
from nasdeploy.searching.predictors.predictor import FittedPredictor
from nasdeploy.searching.problem import Problem
from nasdeploy.searching.result import BudgetRecord, Fidelity, LatencyRecord, NetworkRecord, SearchResult
from nasdeploy.searching.search import Outcome, Timings
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.store.checkpoints import WeightsFacts
from nasdeploy.store.evaluations import Evaluation


def result_of(
    outcome: Outcome,
    problem: Problem,
    known: Sequence[Candidate],
    before: Sequence[LatencyTable],
    *,
    id: str,
    supernet: str,
    weights: WeightsFacts,
    unreadable: int,
    settings: SearchSettings,
    finished: str,
) -> SearchResult:
    """The result of a search for `problem`, whose tables were `before` when it began.

    `known` are the candidates with their costs by the problem's tables.
    """
    winner = outcome.winner
    devices = tuple(table.conditions.device.name for table in problem.tables)
    costs, deployed = {candidate.arch: candidate for candidate in known}, outcome.deployed

    def found(candidate: Candidate) -> NetworkRecord:
        made = found_of(costs.get(candidate.arch, candidate), problem, outcome.timings)
        there = deployed.get(candidate.arch)
        return made if there is None else made.model_copy(update={"deployed_value": there.score.value})

    return SearchResult(
        id=id,
        finished=finished,
        strategy=settings.strategy,
        supernet=supernet,
        weights=weights,
        space=problem.space.digest,
        devices=devices,
        precision=problem.precision,
        budget=BudgetRecord.of(problem.budget),
        probability=settings.probability,
        rounds=outcome.rounds,
        evaluated=len(outcome.candidates),
        metric=winner.evaluation.score.metric,
        samples=winner.evaluation.score.samples,
        unreadable=unreadable,
        winner=found(winner),
        ties=tuple(other.arch.digest for other in outcome.fitting[1:] if _ties(winner, other, deployed)),
        as_fast=_as_fast(winner, outcome, devices),
        finalists=tuple(found(candidate) for candidate in outcome.finalists),
        front=tuple(found(candidate) for candidate in pareto_front(known, problem.axis.name)),
        latency_fidelity={
            name: _fidelity(problem, table, outcome.timings[name]) for name, table in zip(devices, before, strict=True)
        },
        accuracy_fidelity=_of_accuracy(outcome.predictor),
    )


def _ties(winner: Candidate, other: Candidate, deployed: Mapping[Arch, Evaluation]) -> bool:
    best, next_best = (deployed.get(one.arch, one.evaluation) for one in (winner, other))
    return best.score.ties(next_best.score)


def _as_fast(winner: Candidate, outcome: Outcome, devices: Sequence[str]) -> tuple[str, ...]:
    timings = outcome.timings.get(devices[0], {}) if devices else {}
    if winner.arch not in timings:
        return ()
    others = [candidate.arch for candidate in outcome.finalists if candidate.arch != winner.arch]
    return tuple(arch.digest for arch in others if arch in timings and timings[winner.arch].ties(timings[arch]))


def _fidelity(problem: Problem, table: LatencyTable, timings: Mapping[Arch, Timing]) -> Fidelity:
    predicted = [table.predict(problem.space.plan(arch)).seconds for arch in timings]
    measured = [timing.median for timing in timings.values()]
    error = held_out_error(predicted, measured)
    return Fidelity(
        networks=len(measured),
        tau=error.kendall if error else None,
        mean_absolute=float(np.abs(np.array(measured) / np.array(predicted) - 1).mean()),
    )


def _of_accuracy(fitted: FittedPredictor | None) -> Fidelity | None:
    if fitted is None:
        return None
    quality = fitted.quality[fitted.predictor.kind]
    return Fidelity(networks=quality.n, tau=quality.tau, rmse=quality.rmse)


def found_of(candidate: Candidate, problem: Problem, timings: Timings) -> NetworkRecord:
    """Return what is known of a candidate, whose costs are those of the problem, and what was measured of it."""
    score, latency = candidate.evaluation.score, {}
    for table in problem.tables:
        device = table.conditions.device.name
        seconds = candidate.costs[on_device("latency", device)]
        latency[device] = _latency(seconds, table, timings.get(device, {}).get(candidate.arch))
    return NetworkRecord(
        digest=candidate.arch.digest,
        arch=candidate.arch.to_json(),
        value=score.value,
        error=score.error,
        loss=score.loss if isfinite(score.loss) else None,
        costs=NetworkRecord.costs_of(candidate.costs),
        latency=latency,
    )


def _latency(seconds: float, table: LatencyTable, timing: Timing | None) -> LatencyRecord:
    return LatencyRecord(
        predicted_ms=1e3 * seconds,
        uncertainty_ms=1e3 * seconds * table.uncertainty,
        measured_ms=1e3 * timing.median if timing else None,
        measured_p10_ms=1e3 * timing.p10 if timing else None,
        measured_p90_ms=1e3 * timing.p90 if timing else None,
        measured_p95_ms=1e3 * timing.p95 if timing else None,
        measured_spread=timing.process_spread if timing else None,
    )
