"""What a search is asked for, checked before anything heavy is loaded. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.files import find_table, table_path
from nasdeploy.latency.table import LatencyTable, check_device
from nasdeploy.recipe import Recipe, space_of
from nasdeploy.runtimes.device import Device, load_device
from nasdeploy.searching.bounds import parse_amount, parse_latency, split_device
from nasdeploy.searching.budget import Budget, LatencyLimit, Range
from nasdeploy.searching.feasibility import require_feasible
from nasdeploy.searching.problem import Problem
from nasdeploy.store.checkpoints import Weights, trained_weights
from nasdeploy.store.run import Run


@dataclass(frozen=True)
class Bounds:
    """Bounds as the user writes them: `5`, or a range such as `2..5`; see `nasdeploy.searching.bounds`.

    A latency is `2.5`, `2.5ms` or `40%`, with a device before it (`cpu=5`) if it is not the recipe's.
    """

    latency: tuple[str, ...] = ()
    p95: tuple[str, ...] = ()
    macs_m: str | None = None
    params_m: str | None = None
    size_mb: str | None = None
    memory_mb: str | None = None


@dataclass(frozen=True)
class SearchRequest:
    """A feasible budget for the space of a run; no devices and tables for a search without latency."""

    run: Run
    recipe: Recipe
    space: SearchSpace
    devices: tuple[Device, ...]
    tables: tuple[LatencyTable, ...]
    """Of the devices, in their order."""
    budget: Budget
    weights: Weights


def request_search(run: Run, recipe: Recipe, bounds: Bounds, strict: bool, progress: Progress) -> SearchRequest:
    """The search that is asked for; without bounds, the recipe's latency.

    Raises `InfeasibleBudget` with the reachable range, and `UserError` if there is no table of a device. A table that
    was measured under other conditions is warned of, and refused if `strict`.
    """
    space = space_of(run, recipe)
    if recipe.train.sampling.kind == "alone":
        raise UserError(
            f"{run.path}: one network was trained alone there, so there is nothing to search; export it with "
            "'nasdeploy export'"
        )
    bounds = bounds_or_recipes(bounds, recipe)
    require_any(bounds)
    devices = _devices(recipe, bounds)
    tables = {name: _table(space, device, strict, progress) for name, device in devices.items()}
    budget = _feasible(recipe, bounds, space, tables)
    return SearchRequest(
        run, recipe, space, tuple(devices.values()), tuple(tables.values()), budget, trained_weights(run)
    )


def foresee_search(recipe: Recipe, bounds: Bounds, space: SearchSpace, strict: bool) -> None:
    """Raise what `request_search` will raise, as far as that can be known before anything is trained or profiled.

    Of a latency on a device without a table only the form is known.
    """
    bounds = bounds_or_recipes(bounds, recipe)
    require_any(bounds)
    tables = {
        name: _table(space, device, strict, Progress(quiet=True))
        for name, device in _devices(recipe, bounds).items()
        if table_path(space, device).exists()
    }
    _feasible(recipe, bounds, space, tables)


def require_any(bounds: Bounds) -> None:
    """Raise `UserError` unless something is bounded."""
    if bounds == Bounds():
        raise UserError(
            "no budget given: use --latency-ms X, --latency 40%, --macs-m X or --params-m X, or set search.latency in "
            "the recipe"
        )


def _feasible(recipe: Recipe, bounds: Bounds, space: SearchSpace, tables: dict[str, LatencyTable]) -> Budget:
    """The budget that the bounds come to by the tables, by name; raises `InfeasibleBudget`."""
    budget = Budget(
        _limits(recipe, bounds, space, tables),
        parse_amount("--macs-m", bounds.macs_m, 1e6),
        parse_amount("--params-m", bounds.params_m, 1e6),
        parse_amount("--size-mb", bounds.size_mb, 1e6),
        parse_amount("--memory-mb", bounds.memory_mb, 1e6),
    )
    require_feasible(Problem(space, budget, *tables.values()))
    return budget


def latency_devices(recipe: Recipe, bounds: Bounds) -> list[Device]:
    """The devices whose tables a search within `bounds` (by default the recipe's) needs."""
    return list(_devices(recipe, bounds_or_recipes(bounds, recipe)).values())


def bounds_or_recipes(bounds: Bounds, recipe: Recipe) -> Bounds:
    """`bounds`, or the recipe's latency where there are none."""
    return bounds if bounds != Bounds() else Bounds(latency=recipe.search.latencies)


def _devices(recipe: Recipe, bounds: Bounds) -> dict[str, Device]:
    """By name, in the order in which they are named; the recipe's where none is."""
    found = (load_device(name or recipe.device) for name, _ in map(split_device, (*bounds.latency, *bounds.p95)))
    return {device.name: device for device in found}


def _table(space: SearchSpace, device: Device, strict: bool, progress: Progress) -> LatencyTable:
    table = find_table(space, device)
    of = table.conditions.device
    if of.precision != device.precision:
        raise UserError(
            f"the latency table of device {device.name} is in {of.precision}, and the device is in {device.precision} "
            f"now; measure again with 'nasdeploy profile --device {device.name} --restart'"
        )
    for difference in check_device(table, device, strict=strict):
        progress.say(f"warning: the latency table was measured on another device: {difference}")
    return table


def _limits(
    recipe: Recipe, bounds: Bounds, space: SearchSpace, tables: dict[str, LatencyTable]
) -> dict[str, LatencyLimit]:
    medians = _ranges(recipe, bounds.latency, space, tables, p95=False)
    p95s = _ranges(recipe, bounds.p95, space, tables, p95=True)
    return {name: LatencyLimit(medians.get(name, Range()), p95s.get(name, Range())) for name in tables}


def _ranges(
    recipe: Recipe, texts: Sequence[str], space: SearchSpace, tables: dict[str, LatencyTable], *, p95: bool
) -> dict[str, Range]:
    """Bounds by device; raises `UserError` for two of the same device."""
    found: dict[str, Range] = {}
    for text in texts:
        given, bound = split_device(text)
        name = load_device(given or recipe.device).name
        if name in found:
            raise UserError(
                f"device {name} has two latency budgets; use one of them, or name another device as in DEVICE=BOUND"
            )
        low, high = tables[name].range(space) if name in tables else (0.0, 0.0)
        ratio = tables[name].p95_ratio if p95 and name in tables else 1.0
        found[name] = parse_latency(bound, (ratio * low, ratio * high))
    return found
