"""Budgets on the command line, of `nasdeploy search` and `nasdeploy run`: an option for each cost of the registry."""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import typer

from nasdeploy.cli.wording import OPTIONS
from nasdeploy.core.cost_registry import COSTS
from nasdeploy.core.errors import UserError

if TYPE_CHECKING:
    from nasdeploy.searching.budget import Asked

P = ParamSpec("P")
R = TypeVar("R")

_PART = "latency"
"""The option for a latency as a part of the device's range, `--latency 40%`."""


def _options() -> dict[str, Any]:
    """Return the types of the options as Typer reads them, by the names that a command has for them."""
    found: dict[str, Any] = {}
    part = typer.Option(
        f"--{_PART}", metavar="[DEVICE=]PART", help="Latency budget as a part of the device's range, e.g. 40%."
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
    options = _options()

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
    from nasdeploy.searching.budget import is_latency, split_device

    texts = {name: (value,) if isinstance(value, str) else tuple(value or ()) for name, value in given.items()}
    for cost in COSTS.values():
        for text in texts.get(cost.key, ()) if cost.of_device else ():
            if "%" in text:
                raise UserError(
                    f"{OPTIONS[cost.key]} {text}: give milliseconds; a part of the range is --latency {text}"
                )
    for text in texts.get(_PART, ()):
        # 40 alone would be milliseconds, where nearly always 40 % is meant.
        if not is_latency(split_device(text)[1]):
            raise UserError(
                f"--latency {text}: give a part of the range, such as 40%; write milliseconds with --latency-ms"
            )
    asked = {name: texts.get(cost.key, ()) for name, cost in COSTS.items()}
    asked["latency"] = (*asked["latency"], *texts.get(_PART, ()))
    return {name: found for name, found in asked.items() if found}
