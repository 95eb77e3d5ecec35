"""What a search is asked for, checked before anything heavy is loaded. Torch-free."""

from dataclasses import dataclass

from nasdeploy.core.cost_registry import COSTS, on_device, split_name
from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.core.score import Metric
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.runners.open_runner import check_device
from nasdeploy.latency.table import LatencyTable, find_table, table_path
from nasdeploy.recipe import Recipe, space_of
from nasdeploy.runtimes.device import Device, load_device
from nasdeploy.searching.budget import Asked, Budget, Range, parse_amount, parse_latency, split_device
from nasdeploy.searching.feasibility import require_feasible
from nasdeploy.searching.problem import Problem
from nasdeploy.searching.settings import require_parts, require_used
from nasdeploy.store.checkpoints import Weights, trained_weights
from nasdeploy.store.run import Run
from nasdeploy.tasks import task_of


@dataclass(frozen=True)
class SearchRequest:
    """A feasible budget for the space of a run; no devices and tables for a search without latency."""

    run: Run
    recipe: Recipe
    space: SearchSpace
    devices: tuple[Device, ...]
    tables: tuple[LatencyTable, ...]
    """The tables of the devices, in their order."""
    budget: Budget
    weights: Weights

    @property
    def metric(self) -> Metric:
        """What the scores of the run's task measure."""
        return task_of(self.recipe.task).metric


def request_search(run: Run, recipe: Recipe, asked: Asked, strict: bool, progress: Progress) -> SearchRequest:
    """Return the search that is asked for; without bounds, that for the recipe's latency.

    Raises `InfeasibleBudget` with the reachable range, and `UserError` if there is no table of a device. A table that
    was measured under other conditions is warned of, and refused if `strict`.
    """
    space = space_of(run, recipe)
    if recipe.train.sampling.kind == "alone":
        raise UserError(
            f"{run.path}: one network was trained alone there, so there is nothing to search; export it with "
            "`nd.export()`"
        )
    asked = asked_or_recipes(asked, recipe)
    require_any(asked)
    devices = _devices(recipe, asked)
    tables = {name: _table(space, device, strict, progress) for name, device in devices.items()}
    budget = _feasible(recipe, asked, space, tables)
    require_used(recipe.search)
    require_parts(task_of(recipe.task).metric, recipe.search.halving)
    return SearchRequest(
        run, recipe, space, tuple(devices.values()), tuple(tables.values()), budget, trained_weights(run)
    )


def foresee_search(recipe: Recipe, asked: Asked, space: SearchSpace, strict: bool) -> None:
    """Raise what `request_search` will raise, as far as that can be known before anything is trained or profiled.

    Of a latency on a device without a table only the form is known.
    """
    require_used(recipe.search)
    require_parts(task_of(recipe.task).metric, recipe.search.halving)
    asked = asked_or_recipes(asked, recipe)
    require_any(asked)
    tables = {
        name: _table(space, device, strict, Progress(quiet=True))
        for name, device in _devices(recipe, asked).items()
        if table_path(space, device).exists()
    }
    _feasible(recipe, asked, space, tables)


def require_any(asked: Asked) -> None:
    """Raise `UserError` unless something is bounded."""
    if not asked:
        raise UserError(
            "no budget given: use `latency_ms=X`, `latency=40%`, `macs_m=X` or `params_m=X`, or set search.latency in "
            "the recipe"
        )


def _feasible(recipe: Recipe, asked: Asked, space: SearchSpace, tables: dict[str, LatencyTable]) -> Budget:
    """Return the budget that the bounds come to by the tables, by name; raises `InfeasibleBudget`."""
    ranges: dict[str, Range] = {}
    for name, texts in asked.items():
        for text in texts:
            if COSTS[name].of_device:
                device, bound = _latency(recipe, name, text, space, tables)
                if on_device(name, device) in ranges:
                    raise UserError(
                        f"device {device} has two latency budgets; use one of them, or name another device as in "
                        "DEVICE=BOUND"
                    )
                ranges[on_device(name, device)] = bound
            else:
                ranges[name] = parse_amount(COSTS[name], text)
    # A device without a table is not searched for yet.
    known = {name: bound for name, bound in ranges.items() if split_name(name)[1] in (None, *tables)}
    require_feasible(Problem(space, Budget(known), *tables.values()))
    return Budget(known)


def _latency(
    recipe: Recipe, name: str, text: str, space: SearchSpace, tables: dict[str, LatencyTable]
) -> tuple[str, Range]:
    """Return the device of a bound on a latency, and its range in seconds."""
    given, bound = split_device(text)
    device = load_device(given or recipe.device).name
    if device not in tables:
        return device, parse_latency(bound, (0.0, 0.0))
    low, high = tables[device].range(space)
    ratio = tables[device].p95_ratio if name == "latency_p95" else 1.0
    return device, parse_latency(bound, (ratio * low, ratio * high))


def latency_devices(recipe: Recipe, asked: Asked) -> list[Device]:
    """Return the devices whose tables a search for what is `asked` (by default the recipe's) needs."""
    return list(_devices(recipe, asked_or_recipes(asked, recipe)).values())


def asked_or_recipes(asked: Asked, recipe: Recipe) -> Asked:
    """Return what is `asked`, or the recipe's latency where nothing is."""
    return asked or ({"latency": recipe.search.latencies} if recipe.search.latencies else {})


def latency_texts(asked: Asked) -> tuple[str, ...]:
    """Return all bounds on devices' costs as the user writes them, those of the first such cost first."""
    return tuple(text for name, cost in COSTS.items() if cost.of_device for text in asked.get(name, ()))


def _devices(recipe: Recipe, asked: Asked) -> dict[str, Device]:
    """Return devices by name, in the order in which they are named; the recipe's where none is."""
    found = (load_device(name or recipe.device) for name, _ in map(split_device, latency_texts(asked)))
    return {device.name: device for device in found}


def _table(space: SearchSpace, device: Device, strict: bool, progress: Progress) -> LatencyTable:
    table = find_table(space, device)
    of = table.conditions.device
    if of.precision != device.precision:
        raise UserError(
            f"the latency table of device {device.name} is in {of.precision}, and the device is in {device.precision} "
            f"now; measure again with `nd.profile(device={device.name}, restart=True)`"
        )
    for difference in check_device(table, device, strict=strict):
        progress.say(f"warning: the latency table was measured on another device: {difference}")
    return table
