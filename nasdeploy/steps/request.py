"""What a search is asked for, checked before anything heavy is loaded. Torch-free."""

from dataclasses import dataclass

from nasdeploy.errors import UserError
from nasdeploy.latency.files import find_table
from nasdeploy.latency.table import LatencyTable, check_device
from nasdeploy.progress import Progress
from nasdeploy.recipe import Recipe, space_of
from nasdeploy.runtimes.device import Device, load_device
from nasdeploy.search.budget import Budget, parse_latency, require_feasible
from nasdeploy.space import SearchSpace
from nasdeploy.store.run import Run


@dataclass(frozen=True)
class Bounds:
    """Bounds as the user writes them: latency as `2.5`, `2.5ms` or `40%`, MACs and parameters in millions."""

    latency: str | None = None
    macs_m: float | None = None
    params_m: float | None = None


@dataclass(frozen=True)
class SearchRequest:
    """A feasible budget for the space of a run; device and table are None for a search without latency."""

    run: Run
    recipe: Recipe
    space: SearchSpace
    device: Device | None
    table: LatencyTable | None
    budget: Budget


def request_search(run: Run, recipe: Recipe, bounds: Bounds, strict: bool, progress: Progress) -> SearchRequest:
    """The search that is asked for; without bounds, the recipe's latency.

    Raises `InfeasibleBudget` with the reachable range, and `UserError` if there is no table of the device. A table that
    was measured under other conditions is warned of, and refused if `strict`.
    """
    space = space_of(run)
    if recipe.train.sampling.kind == "alone":
        raise UserError(
            f"{run.path}: one network was trained alone there, so there is nothing to search; export it with "
            "'nasdeploy export'"
        )
    if bounds == Bounds():
        bounds = Bounds(latency=recipe.search.latency)
    if bounds == Bounds():
        raise UserError("no budget given: use --latency-ms X, --latency 40%, --macs-m X or --params-m X")
    device = table = latency = None
    if bounds.latency is not None:
        device = load_device(recipe.device)
        table = find_table(space, device)
        for difference in check_device(table, device, strict=strict):
            progress.say(f"warning: the latency table was measured on another device: {difference}")
        latency = parse_latency(bounds.latency, table.range(space))
    budget = Budget(latency, _millions(bounds.macs_m), _millions(bounds.params_m))
    require_feasible(space, budget, table)
    run.facts("train")
    return SearchRequest(run, recipe, space, device, table, budget)


def _millions(value: float | None) -> float | None:
    return None if value is None else value * 1e6
