"""Budgets in few words."""

from nasdeploy.core.cost_registry import COSTS, on_device
from nasdeploy.searching.budget import Budget, Range


def at_most(high: float) -> Range:
    """Everything up to `high`."""
    return Range(high=high)


def budget_of(device: str = "cpu", **bounds: float | Range) -> Budget:
    """A budget of ranges, or upper bounds, by the names of costs; those of a device are bounds on `device`."""
    ranges = {name: bound if isinstance(bound, Range) else at_most(bound) for name, bound in bounds.items()}
    return Budget({on_device(name, device) if COSTS[name].of_device else name: one for name, one in ranges.items()})


def on_devices(**bounds: float | Range) -> Budget:
    """A budget for the median latency on each of several devices."""
    ranges = {on_device("latency", device): bound for device, bound in bounds.items()}
    return Budget({name: bound if isinstance(bound, Range) else at_most(bound) for name, bound in ranges.items()})
