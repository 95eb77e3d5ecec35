"""`nasdeploy search`, by itself and with commands for finished searches, and how commands are given budgets."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

from nasdeploy.cli import completion
from nasdeploy.cli.output import (
    JsonFlag,
    MovedDataOption,
    QuietFlag,
    RunOption,
    changes,
    chosen_run,
    device_names,
    emit,
    load_torch,
    onward,
)
from nasdeploy.cli.searches import by_device, compare, describe, forecast_text, list_searches, show
from nasdeploy.cli.wording import OPTIONS, typed
from nasdeploy.core.cost_registry import COSTS
from nasdeploy.core.errors import InfeasibleBudget, UserError, suggestion

if TYPE_CHECKING:
    from nasdeploy.core.progress import Progress
    from nasdeploy.recipe import Recipe
    from nasdeploy.searching.budget import Asked
    from nasdeploy.store.run import Run
    from nasdeploy.workflows.device_searches import DeviceRequest
    from nasdeploy.workflows.request import SearchRequest


P = ParamSpec("P")
R = TypeVar("R")

_PART = "latency"
"""The option for a latency by what networks take on the device, `--latency 40%` or `--latency 0.5x`."""


def _cost_options() -> dict[str, Any]:
    """Return the types of the options as Typer reads them, by the names that a command has for them."""
    found: dict[str, Any] = {}
    part = typer.Option(
        f"--{_PART}",
        metavar="[DEVICE=]PART",
        help="Latency budget: 0.5x what the original or largest network takes, or 40% of the device's range.",
    )
    for cost in COSTS.values():
        if not cost.of_device:
            # After the other options for latencies.
            found.setdefault(_PART, Annotated[list[str] | None, part])
        option = typer.Option(OPTIONS[cost.key], metavar="[DEVICE=]MS" if cost.of_device else "NUMBER", help=cost.help)
        found[cost.key] = Annotated[list[str] | None if cost.of_device else str | None, option]
    return found


def with_budget(command: Callable[..., R]) -> Callable[..., R]:
    """Return a command with an option for each cost, whose values it takes together as `budget`."""
    options = _cost_options()

    @wraps(command)
    def with_options(*args: Any, **given: Any) -> R:
        budget = {name: given.pop(name, None) for name in options}
        return command(*args, **given, budget=budget)

    signature = inspect.signature(command)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in options.items()
    ]
    own = list(signature.parameters.values())
    place = next(n for n, parameter in enumerate(own) if parameter.name == "budget")
    parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*own[:place], *added, *own[place + 1 :])]
    with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {
        **{name: kind for name, kind in command.__annotations__.items() if name != "budget"},
        **options,
    }
    return with_options


Given = Mapping[str, str | list[str] | None]
"""The values of the options of `with_budget`, by their names with underscores."""


def asked_of(given: Given) -> "Asked":
    """Return what is asked for by the options that were given; raises `UserError` for one in another's unit."""
    from nasdeploy.searching.budget import is_latency, relative_to_device, split_device

    texts = {name: (value,) if isinstance(value, str) else tuple(value or ()) for name, value in given.items()}
    for cost in COSTS.values():
        for text in texts.get(cost.key, ()) if cost.of_device else ():
            if relative_to_device(text):
                raise UserError(f"{OPTIONS[cost.key]} {text}: give milliseconds, or write --latency {text}")
    for text in texts.get(_PART, ()):
        # 40 alone would be milliseconds, where nearly always 40 % is meant.
        if not is_latency(split_device(text)[1]):
            raise UserError(
                f"--latency {text}: give a multiple of what the largest network takes, such as 0.5x, or a part of the "
                "range, such as 40%; write milliseconds with --latency-ms"
            )
    asked = {name: texts.get(cost.key, ()) for name, cost in COSTS.items()}
    asked["latency"] = (*asked["latency"], *texts.get(_PART, ()))
    return {name: found for name, found in asked.items() if found}


StrategyOption = Annotated[
    str | None,
    typer.Option(
        "--strategy",
        metavar="NAME",
        help="How to search, over the recipe's search.strategy.",
        autocompletion=completion.strategies,
    ),
]
PrecisionOption = Annotated[
    str | None,
    typer.Option(
        "--precision",
        metavar="LIST",
        help="Choose among these too, e.g. fp32,int8 [default: the device's].",
        autocompletion=completion.precisions,
    ),
]
PreferOption = Annotated[
    str | None,
    typer.Option(
        "--prefer",
        metavar="WHAT",
        help="accurate, or fast: the fastest that is not told to be worse.",
        autocompletion=completion.preferences,
    ),
]
DevicesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        metavar="NAME|FILE",
        help="Over the recipe's; of several, that which lets the best network in.",
        autocompletion=completion.devices,
    ),
]
StrictFlag = Annotated[bool, typer.Option("--strict", help="Refuse a latency table that was measured elsewhere.")]


app = typer.Typer(invoke_without_command=True)
app.command("list")(list_searches)
app.command()(show)
app.command()(compare)


@app.callback()
@with_budget
def search(
    context: typer.Context,
    budget: Given,
    device: DevicesOption = None,
    strategy: StrategyOption = None,
    prefer: PreferOption = None,
    precision: PrecisionOption = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe, e.g. search.rounds=5.")
    ] = None,
    data: MovedDataOption = None,
    run_directory: RunOption = None,
    strict: StrictFlag = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only tell the reachable range, how many networks fit, and the time.")
    ] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Find the most accurate network that meets a budget.

    What is chosen was measured. Finished searches are listed, shown and compared by the commands.
    """
    if context.invoked_subcommand is not None:
        return

    from nasdeploy.core.progress import Progress
    from nasdeploy.distributed import FailedElsewhere, first_of_host, first_of_run, reported_once

    progress = Progress(quiet or not first_of_run(), typed)
    try:
        with reported_once(first_of_host):
            asked = asked_of(budget)
            run = chosen_run(run_directory)
            names, changed = device_names(device), [*strategy_of(strategy), *preference_of(prefer)]
            recipes = _recipes(run, [*(assignments or ()), *changed], names, data)
            asks = _asks(run, recipes, asked, precision, strict, progress)

        if dry_run:
            if first_of_run():
                for request in asks.requests:
                    _foretell(run, request, progress, as_json)
            return
        load_torch(progress, "nasdeploy.workflows.search")
        if asks.by_device:
            _search_on_each(run, asks.by_device, progress, as_json)
            return
        from nasdeploy.workflows.search import search_all

        result = search_all(asks.requests, progress)
    except FailedElsewhere as error:
        raise typer.Exit(error.exit_code) from None
    if result is not None:
        emit(
            {"run": str(run.path), **result.model_dump(mode="json")},
            as_json,
            lambda: f"{describe(result)}\n{_then(run)}",
        )


def _then(run: "Run") -> str:
    return onward(f"export --run {run.path}")


def _foretell(run: "Run", request: "SearchRequest", progress: "Progress", as_json: bool) -> None:
    from nasdeploy.workflows.searches import forecast

    expected = forecast(request, progress)
    emit({"run": str(run.path), **expected.to_json()}, as_json, lambda: forecast_text(expected))


def _search_on_each(run: "Run", requests: "Sequence[DeviceRequest]", progress: "Progress", as_json: bool) -> None:
    from nasdeploy.workflows.device_searches import search_devices

    found = search_devices(requests, progress)
    content = {"run": str(run.path), "by_device": [each.to_json() for each in found.searches]}
    emit({**content, **found.best.model_dump(mode="json")}, as_json, lambda: f"{by_device(found)}\n{_then(run)}")


def _recipes(run: "Run", assignments: list[str], devices: Sequence[str], data: str | None) -> "list[Recipe]":
    """Return the run's recipe with changes, for each of the devices if there are any."""
    from nasdeploy.recipe import recipe_of

    return [recipe_of(run, changes(assignments, device), data) for device in devices or (None,)]


@dataclass(frozen=True)
class _Asks:
    """The searches that are asked for."""

    requests: "Sequence[SearchRequest]"
    by_device: "Sequence[DeviceRequest]" = ()
    """The devices, where these are several."""


def _asks(
    run: "Run",
    recipes: "Sequence[Recipe]",
    asked: "Asked",
    precision: str | None,
    strict: bool,
    progress: "Progress",
) -> _Asks:
    """Return one search, or one for each precision or device."""
    from nasdeploy.workflows.device_searches import request_by_device
    from nasdeploy.workflows.request import parse_precisions, request_searches

    precisions = [] if precision is None else parse_precisions(precision)
    if len(recipes) == 1:
        return _Asks(request_searches(run, recipes[0], asked, precisions, strict, progress))
    if precisions:
        raise UserError(f"--precision {precision}: several devices are named; name those that are in these precisions")
    found = request_by_device(run, recipes, asked, strict, progress)
    return _Asks([each.request for each in found if not isinstance(each.request, InfeasibleBudget)], found)


def strategy_of(name: str | None) -> list[str]:
    """What `--strategy` changes in a recipe, as `key.key=value`; raises `UserError` for an unknown name."""
    from nasdeploy.searching.settings import STRATEGY_NAMES

    if name is None:
        return []
    if name not in STRATEGY_NAMES:
        raise UserError(f"--strategy {name}: unknown search strategy{suggestion(name, STRATEGY_NAMES)}")
    return [f"search.strategy={name}"]


def preference_of(what: str | None) -> list[str]:
    """What `--prefer` changes in a recipe, as `key.key=value`; raises `UserError` for anything else than it knows."""
    if what not in (None, "accurate", "fast"):
        raise UserError(f"--prefer {what}: give accurate or fast")
    return [] if what is None else [f"search.prefer={what}"]
