"""`nasdeploy search`, a command by itself and with commands of its own for finished searches."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from nasdeploy.cli.budget import Given, asked_of, with_budget
from nasdeploy.cli.output import (
    DeviceOption,
    JsonFlag,
    MovedDataOption,
    QuietFlag,
    RunOption,
    changes,
    chosen_run,
    emit,
)
from nasdeploy.cli.searches import compare, describe, forecast_text, list_searches, show
from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import UserError
from nasdeploy.core.registry import suggestion

if TYPE_CHECKING:
    from nasdeploy.core.progress import Progress
    from nasdeploy.searching.budget import Asked
    from nasdeploy.store.run import Run
    from nasdeploy.workflows.request import SearchRequest

StrategyOption = Annotated[
    str | None, typer.Option("--strategy", metavar="NAME", help="How to search, over the recipe's search.strategy.")
]
PrecisionOption = Annotated[
    str | None,
    typer.Option("--precision", metavar="LIST", help="Choose among these too, e.g. fp32,int8 [default: the device's]."),
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
    device: DeviceOption = None,
    strategy: StrategyOption = None,
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
    """Find the most accurate network that measurably meets a budget; list, show and compare finished searches."""
    if context.invoked_subcommand is not None:
        return

    from nasdeploy.core.progress import Progress
    from nasdeploy.distributed import FailedElsewhere, first_of_host, first_of_run, reported_once

    progress = Progress(quiet or not first_of_run(), typed)
    try:
        with reported_once(first_of_host):
            asked = asked_of(budget)
            run = chosen_run(run_directory)
            changed = [*changes(assignments, device), *strategy_of(strategy)]
            requests = _requests(run, changed, data, asked, precision, strict, progress)

        if dry_run:
            if first_of_run():
                for request in requests:
                    _foretell(run, request, progress, as_json)
            return
        from nasdeploy.workflows.search import search_all

        result = search_all(requests, progress)
    except FailedElsewhere as error:
        raise typer.Exit(error.exit_code) from None
    if result is not None:
        emit({"run": str(run.path), **result.model_dump(mode="json")}, as_json, lambda: describe(result))


def _foretell(run: "Run", request: "SearchRequest", progress: "Progress", as_json: bool) -> None:
    from nasdeploy.workflows.searches import forecast

    expected = forecast(request, progress)
    emit({"run": str(run.path), **expected.to_json()}, as_json, lambda: forecast_text(expected))


def _requests(
    run: "Run",
    assignments: Sequence[str],
    data: str | None,
    asked: "Asked",
    precision: str | None,
    strict: bool,
    progress: "Progress",
) -> "list[SearchRequest]":
    """Return one, or one for each precision."""
    from nasdeploy.recipe import recipe_of
    from nasdeploy.workflows.request import parse_precisions, request_searches

    precisions = [] if precision is None else parse_precisions(precision)
    return request_searches(run, recipe_of(run, assignments, data), asked, precisions, strict, progress)


def strategy_of(name: str | None) -> list[str]:
    """What `--strategy` changes in a recipe, as `key.key=value`; raises `UserError` for an unknown name."""
    from nasdeploy.searching.settings import STRATEGY_NAMES

    if name is None:
        return []
    if name not in STRATEGY_NAMES:
        raise UserError(f"--strategy {name}: unknown search strategy{suggestion(name, STRATEGY_NAMES)}")
    return [f"search.strategy={name}"]
