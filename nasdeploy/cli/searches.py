"""`nasdeploy search list|show|compare`: the finished searches of a run."""

from typing import Annotated

import typer

from nasdeploy.cli.output import JsonFlag, emit
from nasdeploy.cli.runs import RunOption, chosen_run
from nasdeploy.cli.search_text import compared, describe, listed
from nasdeploy.core.errors import UserError


def list_searches(run_directory: RunOption = None, as_json: JsonFlag = False) -> None:
    """The finished searches of a run."""
    from nasdeploy.workflows.history import results

    run = chosen_run(run_directory)
    found = results(run)
    result = {"run": str(run.path), "searches": [one.model_dump(mode="json") for one in found]}
    emit(result, as_json, lambda: listed(found) if found else f"{run.path}: no search has finished yet")


def show(
    search: Annotated[str | None, typer.Argument(metavar="[SEARCH]", help="Its number [default: the latest].")] = None,
    run_directory: RunOption = None,
    as_json: JsonFlag = False,
) -> None:
    """One search: front, finalists, what was chosen, and how good predictions were."""
    from nasdeploy.workflows.history import result

    run = chosen_run(run_directory)
    found = result(run, search)
    emit({"run": str(run.path), **found.model_dump(mode="json")}, as_json, lambda: describe(found))


def compare(
    searches: Annotated[list[str], typer.Argument(metavar="SEARCH...", help="Numbers of two or more searches.")],
    run_directory: RunOption = None,
    as_json: JsonFlag = False,
) -> None:
    """The winners of several searches beside each other."""
    from nasdeploy.workflows.history import result

    if len(searches) < 2:
        raise UserError("one search has nothing to be compared with; give the numbers of two or more")
    run = chosen_run(run_directory)
    found = [result(run, search) for search in searches]
    content = {"run": str(run.path), "searches": [one.model_dump(mode="json") for one in found]}
    emit(content, as_json, lambda: compared(found))
