"""One budget on several devices: a search for each, by its own table, and which of them lets the best network in.

They share the run's evaluations, so that a network that was scored for one device is not scored again for another. The
best winner is the run's result from then on, and the others are kept as searches of the run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nasdeploy.core.errors import InfeasibleBudget, UserError
from nasdeploy.core.progress import Progress
from nasdeploy.distributed import processes
from nasdeploy.recipe import Recipe
from nasdeploy.runtimes.device import Device, load_device
from nasdeploy.searching.budget import Asked, split_device
from nasdeploy.searching.result import SearchResult
from nasdeploy.store.run import Run
from nasdeploy.workflows.request import SearchRequest, asked_or_recipes, latency_texts, request_search


@dataclass(frozen=True)
class DeviceRequest:
    """A device, and the search that is asked for there, or why no network meets the budget there."""

    device: Device
    request: SearchRequest | InfeasibleBudget


@dataclass(frozen=True)
class DeviceSearch:
    """What came of the search for one device."""

    device: Device
    """The device."""
    result: SearchResult | None
    """What was found; None where no network meets the budget."""
    reason: str | None = None
    """Why there is no result; None if there is one."""

    def to_json(self) -> dict[str, Any]:
        """Return the figures of the winner as plain values; None where there is none."""
        result = self.result
        found: dict[str, Any] = {
            "device": self.device.name,
            "runtime": self.device.runtime,
            "precision": self.device.precision,
            "reason": self.reason,
            **dict.fromkeys(("search", "network", "score", "error", "predicted_ms", "measured_ms")),
        }
        if result is None:
            return found
        winner = result.winner
        return {
            **found,
            "search": result.id,
            "network": winner.digest,
            "score": winner.final_value,
            "error": winner.error,
            "predicted_ms": winner.predicted_ms,
            "measured_ms": winner.measured_ms,
        }


@dataclass(frozen=True)
class DeviceSearches:
    """The searches for several devices, in the order in which these were named, and the best result."""

    searches: tuple[DeviceSearch, ...]
    """The search for each device."""
    best: SearchResult
    """The result whose winner is the best of all, which is the run's."""


def request_by_device(
    run: Run, recipes: Sequence[Recipe], asked: Asked, strict: bool, progress: Progress
) -> tuple[DeviceRequest, ...]:
    """Return a search for the device of each recipe, which are alike but for that; without bounds, their latency.

    Raises `InfeasibleBudget` if the budget can be met on none of them, and `UserError` for a device that is named twice
    or has no table, and for a budget that names devices itself.
    """
    devices = [load_device(recipe.device) for recipe in recipes]
    for number, device in enumerate(devices):
        if device.name in (other.name for other in devices[:number]):
            raise UserError(f"device {device.name} is named twice; name each once")
    _require_budget_of_all(asked_or_recipes(asked, recipes[0]))
    found = tuple(
        DeviceRequest(device, _asked_on(run, recipe, asked, strict, progress))
        for device, recipe in zip(devices, recipes, strict=True)
    )
    refused = [each for each in found if isinstance(each.request, InfeasibleBudget)]
    if len(refused) == len(found):
        raise _on_none(refused[0].device, str(refused[0].request), len(found))
    return found


def _require_budget_of_all(asked: Asked) -> None:
    latencies = latency_texts(asked)
    if not latencies:
        raise UserError("several devices are chosen among by latency; give a budget with `latency_ms=X`")
    for text in latencies:
        name, bound = split_device(text)
        if name is not None:
            raise UserError(
                f"latency budget '{text}': each of several devices is given the same budget; write {bound} alone, or "
                "leave `device` out"
            )
    if processes() > 1:
        raise UserError("several devices are searched for by one process; leave out torchrun, or name one")


def _asked_on(
    run: Run, recipe: Recipe, asked: Asked, strict: bool, progress: Progress
) -> SearchRequest | InfeasibleBudget:
    try:
        return request_search(run, recipe, asked, strict, progress)
    except InfeasibleBudget as error:
        return error


def _on_none(device: Device, reason: str, number: int) -> InfeasibleBudget:
    return InfeasibleBudget(f"on none of {number} devices; on {device.name}: {reason}")


def search_devices(requests: Sequence[DeviceRequest], progress: Progress) -> DeviceSearches:
    """Search for each device on which the budget can be met, one after the other.

    Raises `InfeasibleBudget` if no network meets it on any device when it is measured there.
    """
    from nasdeploy.workflows.search import keep_best, search_each

    wanted = [each.request for each in requests if isinstance(each.request, SearchRequest)]
    outcomes = search_each(wanted, progress)
    by_device = dict(zip((request.devices[0].name for request in wanted), outcomes, strict=True))
    found = []
    for each in requests:
        outcome = by_device.get(each.device.name, each.request)
        result = outcome if isinstance(outcome, SearchResult) else None
        found.append(DeviceSearch(each.device, result, None if result is not None else str(outcome)))
    if all(each.result is None for each in found):
        raise _on_none(found[0].device, found[0].reason or "", len(found))
    return DeviceSearches(tuple(found), keep_best(wanted, outcomes))
