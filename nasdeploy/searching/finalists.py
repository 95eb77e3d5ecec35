"""Finalists: measured as whole networks, all in turn, and written down with what else a search came to.

The journal of what was measured is kept while a search goes on, so that one that was killed measures nothing twice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from math import isfinite
from pathlib import Path

import numpy as np

from nasdeploy.convert import model_for
from nasdeploy.core.arch import Arch
from nasdeploy.core.cost_registry import on_device
from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import Part
from nasdeploy.core.progress import Progress
from nasdeploy.core.settings import Settings
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.calibration import held_out_error
from nasdeploy.latency.profile import named_parts, reference_model, whole_network
from nasdeploy.latency.protocol import MeasurementProtocol, Timing
from nasdeploy.latency.runners.processes import open_processes
from nasdeploy.latency.runners.runner import Refusal
from nasdeploy.latency.table import LatencyTable
from nasdeploy.nn.network import Network, NetworkPart
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Model
from nasdeploy.searching.outcome import Outcome, Timings
from nasdeploy.searching.predictors.predictor import FittedPredictor
from nasdeploy.searching.problem import Candidate, Problem, pareto_front
from nasdeploy.searching.result import (
    BudgetRecord,
    DifferenceRecord,
    Fidelity,
    LatencyRecord,
    NetworkRecord,
    SearchResult,
)
from nasdeploy.searching.search import Measure
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.store.checkpoints import WeightsFacts
from nasdeploy.store.files import append_json_line, read_json_lines
from nasdeploy.store.records import parse_record


def measure_networks(
    archs: Sequence[Arch],
    network_of: Callable[[Arch], Network],
    space: SearchSpace,
    device: Device,
    progress: Progress,
) -> dict[Arch, Timing]:
    """Latencies of whole networks on `device` by the protocol for them, beside the reference graph of their space.

    They are those of several processes, after the gaps that the device file says. `network_of` gives the networks ready
    for inference.

    Raises `UserError` if the device cannot be used or its runtime refuses one.
    """
    protocol = MeasurementProtocol().with_idle(device.idle_ms)
    parts = {arch: named_parts(arch.text, space.plan(arch)) for arch in archs}
    arch_of = {key: arch for arch, named in parts.items() for key in named}
    models = {
        key: partial(_model, network_of, arch, part, device) for arch in archs for key, part in parts[arch].items()
    }
    reference = partial(reference_model, space, device)
    timings: dict[str, Timing] = {}
    visits = len(models) * protocol.networks.visits
    with open_processes(device, progress.say) as runner, progress.task("measuring finalists, visits", visits) as task:
        found = runner.measure(models, protocol.networks, protocol, reference=reference, on_visits=task.advance)
        for outcomes in found:
            for key, outcome in outcomes.items():
                if isinstance(outcome, Refusal):
                    raise UserError(f"device {device.name}, network {arch_of[key].digest}: {outcome.reason}")
                timings[key] = outcome
    return {arch: whole_network(named, timings) for arch, named in parts.items()}


def _model(network_of: Callable[[Arch], Network], arch: Arch, part: Part, device: Device) -> Model:
    network = network_of(arch)
    module = network if len(network.plan.parts) == 1 else NetworkPart(network, part.name)
    return model_for(module, [tensor for _, tensor in part.inputs], device)


class _Line(Settings):
    table: str
    arch: str
    timing: Timing


class FinalistJournal:
    """A file of JSON lines, one for each measured network; a line counts if it is of one of the present tables.

    They hold for one search: a machine that is slower today than on the day of an earlier one has to be measured today.
    """

    def __init__(self, path: Path, tables: Sequence[LatencyTable]) -> None:
        """Take up what a killed search left at `path`; raises `UserError` if it is damaged."""
        self._path = path
        self._tables = {table.conditions.device.name: _digest(table) for table in tables}
        lines = (parse_record(_Line, line, path, "delete that file") for line in read_json_lines(path))
        self._known = {(line.table, line.arch): line.timing for line in lines}

    def around(self, measure: Measure) -> Measure:
        """`measure`, but for what is known."""

        def measured(device: str, archs: Sequence[Arch]) -> Mapping[Arch, Timing]:
            table = self._tables[device]
            known = {arch: self._known[table, arch.text] for arch in archs if (table, arch.text) in self._known}
            missing = [arch for arch in archs if arch not in known]
            new = measure(device, missing) if missing else {}
            for arch, timing in new.items():
                append_json_line(self._path, {"table": table, "arch": arch.text, "timing": asdict(timing)})
                self._known[table, arch.text] = timing
            return {**known, **new}

        return measured

    def remove(self) -> None:
        """The search has ended, whether or not it found something."""
        self._path.unlink(missing_ok=True)


def _digest(table: LatencyTable) -> str:
    return sha256(table.model_dump_json().encode()).hexdigest()[:12]


@dataclass(frozen=True)
class SearchFacts:
    """What a search worked on, what it was asked for, and when: its result states it."""

    id: str
    finished: str
    """The time in ISO 8601, in UTC."""
    supernet: str
    """The digest of the weights and of how networks were evaluated."""
    weights: WeightsFacts
    settings: SearchSettings
    unreadable: int
    """Held-out samples that could not be read."""
    original: Arch | None = None
    """The architecture of the run's original, which was scored with weights of its own; None if it has none."""


def result_of(
    outcome: Outcome,
    problem: Problem,
    known: Sequence[Candidate],
    before: Sequence[LatencyTable],
    facts: SearchFacts,
) -> SearchResult:
    """Return the result of a search for `problem`, whose tables were `before` when it began.

    `known` are the candidates with their costs by the problem's tables.
    """
    winner = outcome.winner
    devices = tuple(table.conditions.device.name for table in problem.tables)
    costs, deployed = {candidate.arch: candidate for candidate in known}, outcome.deployed
    comparison = outcome.comparison
    faster = comparison.faster(winner.arch)

    def found(candidate: Candidate) -> NetworkRecord:
        made = found_of(costs.get(candidate.arch, candidate), problem, outcome.timings)
        made = made.model_copy(update={"original": candidate.arch == facts.original})
        there = deployed.get(candidate.arch)
        if there is None:
            return made
        return made.model_copy(update={"deployed_value": there.score.value, "penalty": _finite(there.score.penalty)})

    def compared(candidate: Candidate) -> NetworkRecord:
        difference = None if candidate is winner else comparison.difference(candidate.arch, winner.arch)
        record = None if difference is None else DifferenceRecord.of(difference)
        return found(candidate).model_copy(update={"difference": record})

    return SearchResult(
        id=facts.id,
        finished=facts.finished,
        strategy=facts.settings.strategy,
        score=facts.settings.score,
        supernet=facts.supernet,
        weights=facts.weights,
        space=problem.space.digest,
        devices=devices,
        precision=problem.precision,
        budget=BudgetRecord.of(problem.budget),
        probability=facts.settings.probability,
        rounds=outcome.rounds,
        evaluated=len(outcome.candidates),
        metric=winner.evaluation.score.metric,
        samples=winner.evaluation.score.samples,
        unreadable=facts.unreadable,
        winner=found(winner),
        ties=tuple(other.arch.digest for other in outcome.fitting[1:] if comparison.ties(winner.arch, other.arch)),
        faster=None if faster is None else faster.digest,
        best=None if outcome.best is winner else outcome.best.arch.digest,
        as_fast=_as_fast(winner, outcome, devices),
        finalists=tuple(compared(candidate) for candidate in outcome.finalists),
        front=tuple(found(candidate) for candidate in pareto_front(known, problem.axis.name)),
        latency_fidelity={
            name: _fidelity(problem, table, outcome.timings[name]) for name, table in zip(devices, before, strict=True)
        },
        accuracy_fidelity=_of_accuracy(outcome.predictor),
    )


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
        loss=_finite(score.loss),
        penalty=_finite(score.penalty),
        costs=NetworkRecord.costs_of(candidate.costs),
        latency=latency,
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None


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
