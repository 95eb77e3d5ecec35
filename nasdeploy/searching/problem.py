"""What a search solves: a space, what its networks cost, and which of them are within a budget. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nasdeploy.core.arch import Arch
from nasdeploy.core.costs import Costs, Floats, SlotCost, macs, params
from nasdeploy.core.counting.cost_range import extremes
from nasdeploy.core.space import Codes, SearchSpace
from nasdeploy.latency.table import LatencyTable
from nasdeploy.runtimes.runtime import Precision
from nasdeploy.searching.budget import UNITS, Budget, Range
from nasdeploy.searching.footprint import peak_memory, size_cost


@dataclass(frozen=True)
class Quantity:
    """One column of a problem's costs."""

    name: str
    """As in messages, e.g. `latency on cpu`."""
    unit: str
    scale: float
    """From the column's values to the unit."""
    bound: Range
    slot_cost: SlotCost | None
    """What a slot's block adds; None for a cost that is no sum (peak memory)."""
    offset: float = 0.0
    """What comes on top of the sum over slots."""

    def text(self, value: float) -> str:
        """A value of the column in its unit."""
        return f"{self.scale * value:.4g} {self.unit}"


class Problem:
    """A space under a budget: costs of architectures, and which of them are within it.

    Columns of costs, one for each of `quantities`: seconds of the median call on each table's device, in the order of
    the tables; MACs; parameters; bytes of the exported file; bytes of peak activation memory. `axis` is the column that
    a Pareto front is drawn over: the first device's latency if there is a table, else the first of MACs, parameters and
    file size that is bounded, else MACs. It is always a sum over slots.
    """

    def __init__(self, space: SearchSpace, budget: Budget, *tables: LatencyTable) -> None:
        self.space, self.budget, self.tables = space, budget, tables
        self.quantities: tuple[Quantity, ...] = (*self._latencies(), *self._others())
        self._costs = Costs(space, [*(table.calibrated_cost for table in tables), *self._sums()])
        self._offsets = np.array([table.calibration.offset for table in tables])
        self._memory = peak_memory(space, self.precision)
        self.axis = self._axis()
        self.lower = np.array([quantity.bound.low for quantity in self.quantities])
        self.upper = np.array([quantity.bound.high for quantity in self.quantities])

    def costs(self, codes: Codes) -> Floats:
        """Costs `[n, quantities]` of codes `[n, choices]`."""
        sums, devices = self._costs(codes), len(self.tables)
        return np.column_stack([sums[:, :devices] + self._offsets, sums[:, devices:], self._memory(codes)])

    def feasible(self, costs: Floats) -> npt.NDArray[np.bool_]:
        """Which of the costs `[n, quantities]` are within the budget."""
        within: npt.NDArray[np.bool_] = np.all((costs >= self.lower) & (costs <= self.upper), axis=1)
        return within

    def violation(self, costs: Floats) -> Floats:
        """How far costs `[n, quantities]` are beyond their bounds, in sum, as parts of these; 0 where feasible."""
        return excess(costs, self.lower, self.upper)

    def allows(self, costs: Sequence[float]) -> bool:
        """Whether one architecture's costs are within the budget."""
        return bool(self.feasible(np.array([costs]))[0])

    def cheapest(self) -> list[Arch]:
        """The cheapest architecture by each of the costs that are sums over slots, exactly."""
        sums = [quantity.slot_cost for quantity in self.quantities if quantity.slot_cost is not None]
        return [extremes(self.space, cost)[0].arch for cost in sums]

    def _latencies(self) -> list[Quantity]:
        several = len(self.tables) > 1
        found = []
        for table in self.tables:
            device = table.conditions.device.name
            bound = _median_bound(self.budget, device, table.p95_ratio)
            name = f"latency on {device}" if several else "latency"
            if device in self.budget.latency and self.budget.latency[device].p95.bounded:
                name = f"median {name} (p95: {table.p95_ratio:.3g} times that)"
            found.append(Quantity(name, "ms", 1e3, bound, table.calibrated_cost, table.calibration.offset))
        return found

    def _others(self) -> list[Quantity]:
        slot_costs = [*self._sums(), None]
        return [
            Quantity(what, unit, scale, self.budget.of(name), cost)
            for (name, (what, scale, unit)), cost in zip(UNITS.items(), slot_costs, strict=True)
        ]

    def _sums(self) -> list[SlotCost]:
        return [macs, params, size_cost(self.precision)]

    @property
    def precision(self) -> Precision:
        """Of what is exported: the first device's."""
        return self.tables[0].conditions.device.precision if self.tables else "fp32"

    def _axis(self) -> int:
        if self.tables:
            return 0
        bounded = (n for n, one in enumerate(self.quantities) if one.bound.bounded and one.slot_cost is not None)
        return next(bounded, 0)


def excess(costs: Floats, lower: Floats, upper: Floats) -> Floats:
    """Sum `[n]` over columns of how far costs `[n, columns]` are outside their bounds, as parts of these."""
    above = (costs - upper) / np.where(np.isinf(upper), 1.0, np.maximum(upper, _TINY))
    below = np.where(lower > 0, (lower - costs) / np.maximum(lower, _TINY), 0.0)
    total: Floats = (above.clip(min=0.0) + below.clip(min=0.0)).sum(axis=1)
    return total


_TINY = 1e-30
"""A bound of nothing is exceeded by everything, by very much."""


def _median_bound(budget: Budget, device: str, p95_ratio: float) -> Range:
    """The bounds on a device's median that are those on it and on its 95th percentile: p95 = p95_ratio x median."""
    if device not in budget.latency:
        return Range()
    limit = budget.latency[device]
    return Range(
        max(limit.median.low, limit.p95.low / p95_ratio),
        min(limit.median.high, limit.p95.high / p95_ratio),
    )
