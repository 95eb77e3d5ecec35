"""What is asked for, checked before anything heavy is loaded. Torch-free.

It is a search, one in several precisions, or all steps of a run: nobody trains for a day to learn of a missing package.
A precision has a device of its own, with a latency table of its own: `cpu` and `cpu-int8`, `board.yaml` and
`board-int8.yaml`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nasdeploy.core.cost_registry import COSTS, on_device, split_name
from nasdeploy.core.errors import InfeasibleBudget, UserError, listed
from nasdeploy.core.progress import Progress
from nasdeploy.core.score import Metric, compares
from nasdeploy.core.space import SearchSpace
from nasdeploy.distributed import processes
from nasdeploy.exporting.formats import parse_precision, plan_jobs
from nasdeploy.latency.runners.open_runner import check_device
from nasdeploy.latency.table import TABLES, LatencyTable, find_table, table_path
from nasdeploy.recipe import Recipe, space_of
from nasdeploy.runtimes import described_runtime, runtime_of
from nasdeploy.runtimes.device import Device, load_device, missing_to_reach
from nasdeploy.runtimes.runtime import Precision
from nasdeploy.searching.budget import (
    Asked,
    Budget,
    DeviceLatencies,
    Range,
    parse_amount,
    parse_latency,
    relative_to_device,
    split_device,
)
from nasdeploy.searching.feasibility import require_feasible
from nasdeploy.searching.problem import Problem
from nasdeploy.searching.settings import require_parts, require_used
from nasdeploy.store.checkpoints import Weights, trained_weights
from nasdeploy.store.evaluations import Evaluations
from nasdeploy.store.files import require_writable
from nasdeploy.store.networks import kept_original
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

    def evaluations(self, supernet: str, path: Path | None = None) -> Evaluations:
        """Open what is known of networks of a supernet (a digest), by default in the run's database."""
        database = self.run.search_database if path is None else path
        return Evaluations(database, supernet, self.metric, self.recipe.search.score)


def request_search(run: Run, recipe: Recipe, asked: Asked, strict: bool, progress: Progress) -> SearchRequest:
    """Return the search that is asked for; without bounds, that for the recipe's latency.

    Raises `InfeasibleBudget` with the reachable range, and `UserError` if there is no table of a device. A table that
    was measured under other conditions is warned of, and refused if `strict`.
    """
    space = space_of(run, recipe)
    if recipe.train.last.sampling.kind == "alone":
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
    if compares(recipe.search.score) and kept_original(run) is None:
        raise _without_original(f"{run.path}: search.score is {recipe.search.score}, and this run keeps no original")
    return SearchRequest(
        run, recipe, space, tuple(devices.values()), tuple(tables.values()), budget, trained_weights(run)
    )


def foresee_search(recipe: Recipe, asked: Asked, space: SearchSpace, strict: bool) -> None:
    """Raise what `request_search` will raise, as far as that can be known before anything is trained or profiled.

    Of a latency on a device without a table only the form is known.
    """
    require_used(recipe.search)
    require_parts(task_of(recipe.task).metric, recipe.search.halving)
    if compares(recipe.search.score) and recipe.train.original_phase is None:
        raise _without_original(f"search.score is {recipe.search.score}, and this training keeps no original")
    asked = asked_or_recipes(asked, recipe)
    require_any(asked)
    tables = {
        name: _table(space, device, strict, Progress(quiet=True))
        for name, device in _devices(recipe, asked).items()
        if table_path(space, device).exists()
    }
    _feasible(recipe, asked, space, tables)


def _without_original(what: str) -> UserError:
    """Return the refusal of a search that compares outputs with those of a network that is not there."""
    return UserError(
        f"{what} to compare outputs with, as one with a phase of the largest network alone does; set search.score to "
        "metric or loss"
    )


def require_any(asked: Asked) -> None:
    """Raise `UserError` unless something is bounded."""
    if not asked:
        raise UserError(
            "no budget given: use `latency_ms=X`, `latency=0.5x`, `macs_m=X` or `params_m=X`, or set search.latency in "
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
        return device, parse_latency(bound, DeviceLatencies(0.0, 0.0, 0.0))
    table = tables[device]
    reach = DeviceLatencies(*table.range(space), table.predict(space.plan(space.largest())).seconds)
    return device, parse_latency(bound, reach.times(table.p95_ratio) if name == "latency_p95" else reach)


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


def parse_precisions(text: str) -> list[Precision]:
    """`fp32,int8` as a list, each once; raises `UserError` for what is no precision."""
    words = listed([text])
    if not words:
        raise UserError("`precision`: none given; write e.g. fp32,int8")
    return [parse_precision(word) for word in words]


def request_searches(
    run: Run, recipe: Recipe, asked: Asked, precisions: Sequence[Precision], strict: bool, progress: Progress
) -> list[SearchRequest]:
    """Return a search for each precision in which the budget can be met; without bounds, the recipe's latency.

    Without precisions it is one search, in that of its device. Raises `InfeasibleBudget` if it can be met in none, and
    `UserError` for a budget that is not the same in all.
    """
    if not precisions:
        return [request_search(run, recipe, asked, strict, progress)]
    asked = asked_or_recipes(asked, recipe)
    _require_one_budget(asked, precisions)
    requests, refusals = [], []
    for precision in precisions:
        try:
            requests.append(request_search(run, recipe, _within(asked, recipe, precision), strict, progress))
        except InfeasibleBudget as error:
            refusals.append(error)
            progress.say(f"search: not in {precision}: {error}")
    if not requests:
        raise refusals[0]
    return requests


def _require_one_budget(asked: Asked, precisions: Sequence[Precision]) -> None:
    latencies = latency_texts(asked)
    if not latencies:
        raise UserError("`precision`: a precision is chosen by its latency; give a budget with `latency_ms=X`")
    if len(precisions) == 1:
        return
    if processes() > 1:
        raise UserError("`precision`: several precisions are searched by one process; leave out torchrun, or name one")
    for text in latencies:
        if relative_to_device(text):
            raise UserError(f"latency budget '{text}': it comes to another in each precision; give milliseconds")


def _within(asked: Asked, recipe: Recipe, precision: Precision) -> Asked:
    """Return the bounds, those on devices on the ones of a precision."""

    def moved(texts: Sequence[str]) -> tuple[str, ...]:
        pairs = ((given or recipe.device, bound) for given, bound in map(split_device, texts))
        return tuple(f"{_in_precision(given, precision)}={bound}" for given, bound in pairs)

    return {name: moved(texts) if COSTS[name].of_device else texts for name, texts in asked.items()}


def _in_precision(given: str, precision: Precision) -> str:
    """Return name or file of the device `given` in a precision; raises `UserError` if there is none that is like it."""
    device = load_device(given)
    if device.precision == precision:
        return given
    base = device.name.removesuffix(f"-{device.precision}")
    name = base if precision == "fp32" else f"{base}-{precision}"
    is_file = Path(given).suffix in (".yaml", ".yml")
    other = str(Path(given).with_name(f"{name}.yaml")) if is_file else name
    try:
        found = load_device(other)
    except UserError as error:
        raise UserError(f"`precision={precision}`: device {device.name} would be {other} in it: {error}") from None
    _require_alike(device, found, precision)
    return other


def _require_alike(device: Device, other: Device, precision: Precision) -> None:
    if other.precision != precision:
        raise UserError(f"`precision={precision}`: device {other.name} is in {other.precision}; correct its file")
    for field in ("batch", "threads", "host", "hosts"):
        here, there = getattr(device, field), getattr(other, field)
        if here != there:
            raise UserError(
                f"`precision={precision}`: {field} of device {other.name} is {there}, of {device.name} {here}, so that "
                "their latencies do not compare; make them alike"
            )


def require_whole_way(recipe: Recipe, asked: Asked) -> None:
    """Raise `UserError` if a run of a recipe cannot be profiled, searched within a budget and exported here.

    What depends on the space is checked by `foresee_search`.
    """
    if processes() > 1:
        raise UserError(
            "torchrun: only `nd.train()` and `nd.search()` use several processes; do these first, then go on without it"
        )
    if recipe.train.last.sampling.kind == "alone":
        raise UserError(
            "train.sampling.kind is alone: one network is trained, and there is nothing to search; use "
            "`nd.train()` and `nd.export()`"
        )
    require_any(asked_or_recipes(asked, recipe))
    devices = latency_devices(recipe, asked)
    target = load_device(export_device(recipe, asked))
    if not target.is_local:
        raise UserError(
            f"device {target.name}: `workflows.run.run_all()` ends with an export that is proved on this machine, and "
            "the device is another one; use `nd.train()`, 'profile' and 'search', then `nd.export(device=cpu)`"
        )
    plan_jobs(("onnx",), target)
    for device in devices:
        (runtime_of if device.is_local else _reachable)(device)
    if devices:
        require_writable(TABLES / "table.json")


def _reachable(device: Device) -> None:
    """Raise `UserError` unless the packages are here with which networks are measured on another machine."""
    described_runtime(device)
    command = missing_to_reach(device)
    if command is not None:
        how = "over SSH" if "asyncssh" in command else "by adb"
        raise UserError(f"device {device.name}: it is measured {how}, for which run: {command}")


def export_device(recipe: Recipe, asked: Asked) -> str:
    """Return name or file of the device that the winner within the budget `asked` is exported for.

    The first of the budget's devices that is this machine, else the recipe's.
    """
    texts = latency_texts(asked_or_recipes(asked, recipe))
    named = [given or recipe.device for given, _ in map(split_device, texts)]
    return next((name for name in named if load_device(name).is_local), recipe.device)
