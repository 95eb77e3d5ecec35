"""Sub-networks as a report shows them: what they score by what they cost, the Pareto front, the budget, the choice."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nasdeploy.core.arch import Arch
from nasdeploy.core.cost_registry import COSTS, NETWORK_COSTS, front_axis, macs, on_device, params, split_name
from nasdeploy.core.costs import Costs
from nasdeploy.core.errors import UserError
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.table import LatencyTable
from nasdeploy.report.figures import Box
from nasdeploy.report.training import finite
from nasdeploy.searching.result import Fidelity, NetworkRecord, SearchResult
from nasdeploy.store.evaluations import Evaluation


@dataclass(frozen=True)
class ScoredNetwork:
    """One sub-network with its score on the training samples that are held out for the search, and what it costs."""

    digest: str
    """The digest of the architecture."""
    arch: Mapping[str, Any]
    """The architecture as nested JSON: integers, or lists of them, by the name of the choice."""
    macs: int
    """The multiply-accumulates for one sample."""
    params: int
    """The number of learned parameters."""
    predicted_ms: Mapping[str, float]
    """The predicted latencies in milliseconds by device, of the devices with a latency table."""
    value: float
    """The score; multiply by the metric's `scale` for what is shown."""
    error: float
    """The standard error of `value`."""
    loss: float | None
    """The mean label loss; None if the outputs were no numbers."""
    samples: int
    """The number of samples that it was scored on."""


@dataclass(frozen=True)
class Regime:
    """The sub-networks between two numbers of MACs that `evaluate` drew."""

    low_macs: float
    """The fewest multiply-accumulates of the regime."""
    high_macs: float
    """The most multiply-accumulates of the regime."""
    box: Box | None
    """Minimum, quartiles and maximum of the scores; None where no network lies there."""


@dataclass(frozen=True)
class BudgetBound:
    """A bound that the search kept to, in the cost's unit."""

    name: str
    """The name of the cost, such as `latency`, `latency_p95`, `macs` (in millions) or `size`."""
    title: str
    """The cost in words, such as `latency on cpu`."""
    unit: str
    """The unit of the cost, such as `ms`."""
    low: float | None
    """The least that is allowed; None where there is no such bound."""
    high: float | None
    """The most that is allowed; None where there is no such bound."""


@dataclass(frozen=True)
class FrontPoint:
    """A network of a search: one of the Pareto front, a finalist, or the chosen one."""

    digest: str
    """The digest of the architecture."""
    arch: Mapping[str, Any]
    """The architecture as nested JSON."""
    chosen: bool
    """Whether it is the network that the search chose."""
    original: bool
    """Whether it is the run's pretrained original, with weights of its own."""
    tied: bool
    """Whether it is a finalist that is worse than the chosen one by no more than one standard error."""
    value: float
    """The score; times the metric's `scale` for what is shown. That of finalists and of the chosen network is of what
    is deployed, in int8 as its runtime computes it."""
    error: float
    """The standard error of `value`."""
    cost: float | None
    """The place on the axis (see `FrontReport.axis`): predicted, where it is a latency."""
    uncertainty: float
    """The standard deviation of a predicted `cost`, in its unit; 0 where it is known."""
    costs: Mapping[str, float]
    """The costs by name, in the units of `FrontReport.units`."""
    predicted_ms: Mapping[str, float]
    """The predicted medians in milliseconds by device."""
    measured_ms: Mapping[str, "MeasuredLatency"]
    """The measured latencies by device; empty for networks that were not measured."""


@dataclass(frozen=True)
class MeasuredLatency:
    """A latency of a whole network in milliseconds: median and percentiles of its calls."""

    median: float
    """The milliseconds that half of the calls took at most."""
    p10: float | None
    """The milliseconds that 10 % of the calls took at most; None where it is not known."""
    p90: float | None
    """The milliseconds that 90 % of the calls took at most; None where it is not known."""
    p95: float | None
    """The milliseconds that 95 % of the calls took at most; None where it is not known."""


@dataclass(frozen=True)
class FrontReport:
    """The latest search of a run."""

    id: str
    """The number of the search in its run."""
    finished: str
    """UTC, ISO 8601."""
    strategy: str
    """The strategy that proposed architectures."""
    criterion: str
    """What networks were ranked by: `metric`, `loss`, `divergence` or `both`."""
    devices: tuple[str, ...]
    """The devices of the budget; the first is that of the axis."""
    precision: str
    """The precision of the first device."""
    evaluated: int
    """The number of scored networks within the budget."""
    rounds: int
    """The rounds of search and measurement until a finalist met the budget."""
    samples: int
    """The number of held-out samples that networks were scored on."""
    axis: str
    """The words at the axis of costs with their unit, such as `latency in ms on cpu` or `MACs in millions`."""
    is_latency: bool
    """Whether the axis is a latency, which is predicted for the front and measured for finalists."""
    bounds: tuple[BudgetBound, ...]
    """The bounds that the search kept to."""
    axis_bound: BudgetBound | None
    """The bound on the axis' own cost; None where that is not bounded."""
    front: tuple[FrontPoint, ...]
    """The Pareto front by rising cost."""
    finalists: tuple[FrontPoint, ...]
    """The finalists by rank, best first."""
    winner: FrontPoint
    """The network that was chosen."""
    as_fast: tuple[str, ...]
    """The digests of finalists whose latency is not told from the winner's."""
    units: Mapping[str, str]
    """The units of `FrontPoint.costs` by the name of the cost."""
    latency_fidelity: Mapping[str, Fidelity]
    """How well predictions ordered the measured networks, by device."""
    accuracy_fidelity: Fidelity | None
    """How well predicted scores ordered networks; None without a predictor."""


@dataclass(frozen=True)
class SubNetworks:
    """All sub-networks of a run that were scored, by search or by `evaluate`."""

    networks: tuple[ScoredNetwork, ...]
    """The networks in the order in which they were scored."""
    regimes: tuple[Regime, ...]
    """The regimes of the latest `evaluate`, by rising MACs; empty where there was none."""


def sub_networks(
    found: Sequence[Evaluation], space: SearchSpace, tables: Mapping[str, LatencyTable], regimes: tuple[Regime, ...]
) -> SubNetworks:
    """Return the evaluated networks of a space with their costs; those of another space are left out."""
    known: dict[Arch, Evaluation] = {}
    for one in found:
        arch = _arch_in(space, one.arch)
        if arch is not None and finite(one.score.value) is not None:
            known.setdefault(arch, one)
    archs = list(known)
    codes = space.encode(archs)
    counts = Costs(space, [macs, params])(codes).astype(int).tolist() if archs else []
    predicted = {name: 1e3 * table.latencies(space)(codes) for name, table in tables.items() if archs}
    shown = [
        ScoredNetwork(
            digest=arch.digest,
            arch=arch.to_json(),
            macs=counts[place][0],
            params=counts[place][1],
            predicted_ms={name: float(column[place]) for name, column in predicted.items()},
            value=known[arch].score.value,
            error=finite(known[arch].score.error) or 0.0,
            loss=finite(known[arch].score.loss),
            samples=known[arch].score.samples,
        )
        for place, arch in enumerate(archs)
    ]
    return SubNetworks(tuple(shown), regimes)


def _arch_in(space: SearchSpace, text: str) -> Arch | None:
    """Return the architecture in a text of JSON; None if it is none of the space's."""
    try:
        return space.arch(json.loads(text))
    except (UserError, ValueError, RecursionError):
        return None


def front_report(result: SearchResult) -> FrontReport:
    """Return what a report shows of a finished search."""
    axis = front_axis(result.budget.bounds) if result.device is None else on_device("latency", result.device)
    bounds = tuple(_bound(name, low, high) for name, (low, high) in result.budget.bounds.items())
    named = dict(zip(result.budget.bounds, bounds, strict=True))
    shown = COSTS[split_name(axis)[0]]
    unit = "millions" if shown.is_count else shown.unit
    return FrontReport(
        id=result.id,
        finished=result.finished,
        strategy=result.strategy,
        criterion=result.score,
        devices=result.devices,
        precision=result.precision,
        evaluated=result.evaluated,
        rounds=result.rounds,
        samples=result.samples,
        axis=f"{shown.title} in {unit}" + ("" if result.device is None else f" on {result.device}"),
        is_latency=result.device is not None,
        bounds=bounds,
        axis_bound=named.get(axis),
        front=tuple(replace(_point(found, result, axis), value=found.value) for found in result.front),
        finalists=tuple(_point(found, result, axis) for found in result.finalists),
        winner=_point(result.winner, result, axis),
        as_fast=result.as_fast,
        units={name: cost.unit for name, cost in NETWORK_COSTS.items()},
        latency_fidelity=result.latency_fidelity,
        accuracy_fidelity=result.accuracy_fidelity,
    )


def _bound(name: str, low: float | None, high: float | None) -> BudgetBound:
    key, device = split_name(name)
    title = COSTS[key].title if device is None else on_device(COSTS[key].title, device)
    return BudgetBound(key, title, COSTS[key].unit, low, high)


def _point(found: NetworkRecord, result: SearchResult, axis: str) -> FrontPoint:
    costs = {name: value for name in NETWORK_COSTS if (value := found.in_unit(name)) is not None}
    first = next(iter(found.latency.values()), None)
    return FrontPoint(
        digest=found.digest,
        arch=found.arch,
        chosen=found.digest == result.winner.digest,
        original=found.original,
        tied=found.digest in result.ties,
        value=found.final_value,
        error=found.error,
        cost=found.predicted_ms if result.device is not None else costs.get(axis),
        uncertainty=0.0 if first is None else first.uncertainty_ms,
        costs=costs,
        predicted_ms={device: one.predicted_ms for device, one in found.latency.items()},
        measured_ms={
            device: MeasuredLatency(one.measured_ms, one.measured_p10_ms, one.measured_p90_ms, one.measured_p95_ms)
            for device, one in found.latency.items()
            if one.measured_ms is not None
        },
    )
