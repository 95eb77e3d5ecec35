"""What a search solves: a space, what its networks cost, and which of them are within a budget. Torch-free.

Also how far below a latency budget a network has to be so that it holds, before it is measured and then; and evaluated
architectures with their costs, which of them no other beats, and that front while it grows.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from nasdeploy.core.arch import Arch
from nasdeploy.core.cost_registry import COSTS, NETWORK_COSTS, Cost, SlotCost, front_axis, on_device
from nasdeploy.core.costs import Floats, NetworkCosts
from nasdeploy.core.counting.chain import extremes
from nasdeploy.core.score import Metric
from nasdeploy.core.space import Codes, SearchSpace
from nasdeploy.latency.protocol import Timing
from nasdeploy.latency.table import LatencyTable
from nasdeploy.runtimes.runtime import Precision
from nasdeploy.searching.budget import ANY, Budget, Range
from nasdeploy.store.evaluations import Evaluation

_BYTES: Mapping[Precision, int] = {"fp32": 4, "fp16": 2, "int8": 1}
"""The bytes of a number in each precision."""


@dataclass(frozen=True)
class Quantity:
    """One column of a problem's costs."""

    name: str
    """The name in budgets, e.g. `latency on cpu`."""
    cost: Cost
    column: int
    bound: Range
    slot_cost: SlotCost
    """What a slot's block costs."""
    is_sum: bool = True
    """Whether an architecture's cost is the sum over slots; the largest of them otherwise (peak memory)."""
    offset: float = 0.0
    """What comes on top of the sum over slots."""
    title: str = ""
    """The name in messages where it is not that of the cost."""

    def __str__(self) -> str:
        return self.title or self.cost.title

    @property
    def shown(self) -> bool:
        """Whether it is worth showing: a device's costs are, and what else is bounded."""
        return self.cost.of_device or self.bound.bounded


class Problem:
    """A space under a budget: costs of architectures, and which of them are within it.

    `quantities` says what the columns of costs are: seconds of the median call on each table's device, in the order of
    the tables, and the network's own costs. `axis` is the quantity that a Pareto front is drawn over: the first
    device's latency if there is a table, else the first sum over slots that is bounded, else MACs. It is always a sum
    over slots.
    """

    def __init__(self, space: SearchSpace, budget: Budget, *tables: LatencyTable) -> None:
        self.space, self.budget, self.tables = space, budget, tables
        self._costs = NetworkCosts(space, _BYTES[self.precision], [table.calibrated_cost for table in tables])
        self._offsets = np.array([table.calibration.offset for table in tables])
        self.quantities: tuple[Quantity, ...] = (*self._latencies(), *self._of_networks())
        bounded = {one.name for one in self.quantities if one.bound.bounded}
        self.axis = self.quantities[0] if tables else self.quantity(front_axis(bounded))
        self.lower = np.array([quantity.bound.low for quantity in self.quantities])
        self.upper = np.array([quantity.bound.high for quantity in self.quantities])

    def quantity(self, name: str) -> Quantity:
        """Return the quantity of a name."""
        return next(one for one in self.quantities if one.name == name)

    def named(self, costs: Floats) -> list[dict[str, float]]:
        """Return costs `[n, quantities]` by the names of the quantities."""
        names = [quantity.name for quantity in self.quantities]
        return [dict(zip(names, row, strict=True)) for row in costs.tolist()]

    def costs(self, codes: Codes) -> Floats:
        """Return costs `[n, quantities]` of codes `[n, choices]`."""
        found = self._costs(codes)
        found[:, : len(self.tables)] += self._offsets
        return found

    def feasible(self, costs: Floats) -> npt.NDArray[np.bool_]:
        """Return which of the costs `[n, quantities]` are within the budget."""
        within: npt.NDArray[np.bool_] = np.all((costs >= self.lower) & (costs <= self.upper), axis=1)
        return within

    def violation(self, costs: Floats) -> Floats:
        """Return by how much costs `[n, quantities]` exceed their bounds, as parts of these, summed up; 0 within."""
        return excess(costs, self.lower, self.upper)

    def allows(self, costs: Mapping[str, float]) -> bool:
        """Return whether one architecture's costs by name are within the budget."""
        return all(costs[one.name] in one.bound for one in self.quantities)

    def cheapest(self) -> list[Arch]:
        """Return the cheapest architecture by each of the costs that are sums over slots, exactly."""
        return [extremes(self.space, one.slot_cost)[0].arch for one in self.quantities if one.is_sum]

    def _latencies(self) -> list[Quantity]:
        found = []
        for column, table in enumerate(self.tables):
            device = table.conditions.device.name
            bounds = self.budget.on(device)
            title = f"latency on {device}" if len(self.tables) > 1 else "latency"
            if bounds.get("latency_p95", ANY).bounded:
                title = f"median {title} (p95: {table.p95_ratio:.3g} times that)"
            bound, offset = median_bound(bounds, table.p95_ratio), table.calibration.offset
            name = on_device("latency", device)
            cost = table.calibrated_cost
            found.append(Quantity(name, COSTS["latency"], column, bound, cost, offset=offset, title=title))
        return found

    def _of_networks(self) -> list[Quantity]:
        found = []
        for column, name in enumerate(self._costs.names, start=len(self.tables)):
            cost = NETWORK_COSTS[name]
            found.append(Quantity(name, cost, column, self.budget[name], self._costs.slot_costs[name], cost.add))
        return found

    @property
    def precision(self) -> Precision:
        """The precision of what is exported: the first device's."""
        return self.tables[0].conditions.device.precision if self.tables else "fp32"


def excess(costs: Floats, lower: Floats, upper: Floats) -> Floats:
    """Return the sum `[n]` over columns of how far costs `[n, columns]` are outside their bounds, as parts of these."""
    above = (costs - upper) / np.where(np.isinf(upper), 1.0, np.maximum(upper, _TINY))
    below = np.where(lower > 0, (lower - costs) / np.maximum(lower, _TINY), 0.0)
    total: Floats = (above.clip(min=0.0) + below.clip(min=0.0)).sum(axis=1)
    return total


_TINY = 1e-30
"""A bound of nothing is exceeded by everything, by very much."""


def median_bound(bounds: Mapping[str, Range], p95_ratio: float) -> Range:
    """Return the bounds on a device's median that are those on it and on its 95th percentile, `p95_ratio` x median."""
    median, p95 = bounds.get("latency", ANY), bounds.get("latency_p95", ANY)
    return Range(max(median.low, p95.low / p95_ratio), min(median.high, p95.high / p95_ratio))


def meets(timing: Timing, bounds: Mapping[str, Range], reserve: float) -> bool:
    """Return whether a measured network keeps to a device's bounds, with the part `reserve` of each upper one free."""
    measured = {"latency": timing.median, "latency_p95": timing.p95}
    return all(bound.low <= measured[name] <= bound.high * (1 - reserve) for name, bound in bounds.items())


def predicted_budget(
    budget: Budget,
    tables: Sequence[LatencyTable],
    ends: Sequence[tuple[float, float]],
    slowness: Mapping[str, float],
    *,
    probability: float,
    reserve: float,
) -> Budget:
    """The budget that predictions have to keep to, so that a network of them measures within `budget`.

    A prediction's relative error is taken to be normal, with the table's standard deviation s at the bound b:
    predicted = measured (1 + e). An upper bound b on what is measured then holds with `probability` P if the
    prediction is at most b (1 - reserve) (1 - z s), where z is the normal quantile of P, and a lower one if it is at
    least b (1 + z s). On devices whose measured networks were slower than predicted by a factor in `slowness`, bounds
    are divided by it. No bound leaves the reachable latencies `ends` of its table: the fastest network may be
    tried in any case.
    """
    z = NormalDist().inv_cdf(probability)
    ranges = dict(budget.ranges)
    for table, end in zip(tables, ends, strict=True):
        device = table.conditions.device.name
        factor = max(1.0, slowness.get(device, 1.0))
        for name, bound in budget.on(device).items():
            ratio = {"latency": 1.0, "latency_p95": table.p95_ratio}[name]
            margin, reach = z * _deviation(table, bound), (end[0] * ratio, end[1] * ratio)
            ranges[on_device(name, device)] = _narrowed(bound, margin, reserve, factor, reach)
    return Budget(ranges)


def _deviation(table: LatencyTable, bound: Range) -> float:
    """Return the table's relative standard deviation, where there is a bound."""
    return table.uncertainty if bound.bounded else 0.0


def _narrowed(bound: Range, margin: float, reserve: float, factor: float, end: tuple[float, float]) -> Range:
    """A bound with its margins on a device that is slower by `factor`; one that excludes all leaves the nearest."""
    if not bound.bounded:
        return bound
    low, high = bound.low / factor, bound.high / factor
    safe = Range(low * (1 + margin), high * (1 - reserve) * max(1 - margin, 0.0))
    # A range that is narrower than its margins is asked for as it is.
    low, high = (safe.low, safe.high) if safe.low <= safe.high else (low, high)
    # Sums over slots are rounded differently in different orders.
    return Range(min(low, end[1] * (1 - 1e-9)), max(high, end[0] * (1 + 1e-9)))


@dataclass(frozen=True)
class Candidate:
    """An evaluated architecture and its costs, by the names of the problem's quantities."""

    arch: Arch
    evaluation: Evaluation
    costs: Mapping[str, float]

    @property
    def rank(self) -> tuple[float, float]:
        """The key that orders candidates, larger for better ones."""
        return self.evaluation.score.rank


def candidates_of(problem: Problem, archs: Sequence[Arch], evaluations: Sequence[Evaluation]) -> list[Candidate]:
    """Architectures with their evaluations and costs."""
    costs = problem.costs(problem.space.encode(archs))
    return [
        Candidate(arch, evaluation, row)
        for arch, evaluation, row in zip(archs, evaluations, problem.named(costs), strict=True)
    ]


def ranked(candidates: Sequence[Candidate], originals: Collection[Arch] = ()) -> list[Candidate]:
    """Return candidates, the best first.

    Where networks are ranked by how far their outputs are from an original's, that network would win for being itself.
    It counts as far from it as the best other network, so that its label loss decides between these two.
    """
    others = (candidate for candidate in candidates if candidate.arch not in originals)
    best = max(others, key=lambda candidate: candidate.rank, default=None)
    away = None if best is None else best.evaluation.score.divergence

    def judged(candidate: Candidate) -> Candidate:
        if away is None or candidate.arch not in originals:
            return candidate
        score = replace(candidate.evaluation.score, divergence=away)
        return replace(candidate, evaluation=replace(candidate.evaluation, score=score))

    return sorted(map(judged, candidates), key=lambda candidate: candidate.rank, reverse=True)


def pareto_front(found: Sequence[Candidate], axis: str) -> list[Candidate]:
    """The candidates that no cheaper or equally cheap one beats, by rising cost on `axis`."""
    front: list[Candidate] = []
    for candidate in sorted(found, key=lambda c: (c.costs[axis], *(-value for value in c.rank))):
        if not front or candidate.rank > front[-1].rank:
            front.append(candidate)
    return front


_ROWS = 8


class GrowingFront:
    """What was evaluated so far within a problem's budget that nothing beats."""

    def __init__(self, problem: Problem, metric: Metric) -> None:
        self._problem, self._metric = problem, metric
        self._front: list[Candidate] = []
        self._new: list[tuple[Arch, Evaluation]] = []

    def add(self, arch: Arch, evaluation: Evaluation) -> None:
        """One more; what was stopped before all samples does not count."""
        if evaluation.whole:
            self._new.append((arch, evaluation))

    @property
    def front(self) -> list[Candidate]:
        """Return the front by rising cost on the problem's axis."""
        if self._new:
            archs, evaluations = zip(*self._new, strict=True)
            self._new.clear()
            found = candidates_of(self._problem, archs, evaluations)
            within = [candidate for candidate in found if self._problem.allows(candidate.costs)]
            self._front = pareto_front([*self._front, *within], self._problem.axis.name)
        return self._front

    def rows(self) -> list[list[str]]:
        """The best of the front, the heading first; no rows where nothing was found yet."""
        if not self.front:
            return []
        shown = [one for one in self._problem.quantities if one.shown or one == self._problem.axis]
        heading = ["best so far", self._metric.heading, *map(str, shown)]
        return [heading, *(self._row(candidate, shown) for candidate in reversed(self.front[-_ROWS:]))]

    def _row(self, candidate: Candidate, shown: Sequence[Quantity]) -> list[str]:
        score = candidate.evaluation.score
        costs = [one.cost.text(candidate.costs[one.name]) for one in shown]
        return [candidate.arch.digest, self._metric.with_error(score.value, score.error), *costs]
