"""Budgets: what the network may cost, and whether any network of the space costs so little. Torch-free."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nasdeploy.arch import Arch
from nasdeploy.costs import Costs, Floats, SlotCost, macs, params
from nasdeploy.errors import InfeasibleBudget, UserError
from nasdeploy.extremes import extremes
from nasdeploy.latency.table import LatencyTable
from nasdeploy.space import Codes, SearchSpace


@dataclass(frozen=True)
class Budget:
    """Upper bounds; None where there is none."""

    latency: float | None = None
    """Seconds."""
    macs: float | None = None
    params: float | None = None

    def __str__(self) -> str:
        parts = [
            f"{1e3 * self.latency:.4g} ms" if self.latency is not None else "",
            f"{self.macs / 1e6:.4g} M MACs" if self.macs is not None else "",
            f"{self.params / 1e6:.4g} M parameters" if self.params is not None else "",
        ]
        return " and ".join(part for part in parts if part)


class Problem:
    """A space under a budget: costs of architectures, and which of them are within it.

    Columns of costs are latency in seconds (0 without a table), MACs and parameters. `axis` is the column that a Pareto
    front is drawn over: latency if there is a table, else MACs, or parameters if only those are bounded.
    """

    def __init__(self, space: SearchSpace, budget: Budget, table: LatencyTable | None) -> None:
        self.space, self.budget, self.table = space, budget, table
        self._costs = Costs(space, [*(table.slot_costs if table else ()), macs, params])
        self.axis = 0 if table else 1 if budget.macs is not None or budget.params is None else 2

    def costs(self, codes: Codes) -> Floats:
        """Costs `[n, 3]` of codes `[n, choices]`."""
        columns = self._costs(codes)
        latency = self.table.latency_of(columns[:, :2]) if self.table else np.zeros(len(columns))
        return np.column_stack([latency, columns[:, -2:]])

    def feasible(self, costs: Floats) -> npt.NDArray[np.bool_]:
        """Which of the costs `[n, 3]` are within the budget."""
        within: npt.NDArray[np.bool_] = np.all(costs <= self.bounds, axis=1)
        return within

    def allows(self, costs: tuple[float, float, float]) -> bool:
        """Whether one architecture's costs are within the budget."""
        return bool(self.feasible(np.array([costs]))[0])

    def cheapest(self) -> list[Arch]:
        """The cheapest architecture by each of the costs, exactly."""
        functions: list[SlotCost] = [macs, params]
        if self.table:
            functions.append(self.table.calibrated_cost)
        return [extremes(self.space, function)[0].arch for function in functions]

    @property
    def bounds(self) -> Floats:
        """Upper bounds `[3]`, infinite where there is none."""
        limits = (self.budget.latency, self.budget.macs, self.budget.params)
        return np.array([np.inf if limit is None else limit for limit in limits])


def parse_latency(text: str, span: tuple[float, float]) -> float:
    """Seconds for `2.5ms`, `2.5` (milliseconds) or `40%` of the reachable `span` in seconds."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|%)?", text.strip())
    if match is None:
        raise UserError(
            f"latency budget '{text}': write milliseconds, such as 2.5ms, or a part of the range, such as 40%"
        )
    number = float(match[1])
    if match[2] != "%":
        return number / 1e3
    if number > 100:
        raise UserError(f"latency budget '{text}': at most 100% of the reachable range")
    return span[0] + (span[1] - span[0]) * number / 100


def require_feasible(space: SearchSpace, budget: Budget, table: LatencyTable | None) -> None:
    """Raise `InfeasibleBudget`, with the range that can be reached, if one of the bounds is below the whole space."""
    if budget.latency is not None and table is not None:
        _require("latency", budget.latency, table.range(space), lambda v: f"{1e3 * v:.4g} ms")
    if budget.macs is not None:
        span = tuple(extreme.cost for extreme in extremes(space, macs))
        _require("MACs", budget.macs, span, lambda v: f"{v / 1e6:.4g} M")
    if budget.params is not None:
        span = tuple(extreme.cost for extreme in extremes(space, params))
        _require("parameters", budget.params, span, lambda v: f"{v / 1e6:.4g} M")


def _require(what: str, bound: float, span: tuple[float, ...], text: Callable[[float], str]) -> None:
    if bound < span[0]:
        raise InfeasibleBudget(
            f"no network of this space has {what} of {text(bound)} or less; the space reaches from {text(span[0])} to "
            f"{text(span[1])}: give a budget in that range"
        )
