"""What commands share: the run that they work on, the options for it, and how results are printed."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasdeploy.core.escaping import as_json as plain

if TYPE_CHECKING:
    from nasdeploy.store.run import Run


RunOption = Annotated[
    str | None, typer.Option("--run", metavar="DIR", help="Run directory [default: the latest in runs/].")
]
MovedDataOption = Annotated[
    str | None, typer.Option("--data", metavar="DIR", help="Folder of the run's images, if it was moved.")
]
ChangeOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe, e.g. data.on_unreadable=skip."),
]
DeviceOption = Annotated[str | None, typer.Option("--device", metavar="NAME|FILE", help="Over the recipe's.")]


def chosen_run(directory: str | None) -> "Run":
    """The run in a directory, by default the latest; raises `UserError` if there is none."""
    from nasdeploy.store.run import Run

    return Run.open(Path(directory)) if directory else Run.latest()


def changes(assignments: Sequence[str] | None, device: str | None) -> list[str]:
    """What `--set` and `--device` change in a recipe, as `key.key=value`."""
    return [*(assignments or ()), *([f"device={json.dumps(device)}"] if device else ())]


def device_names(given: Sequence[str] | None) -> list[str]:
    """Return the names that are given to an option for several devices, also with commas between them."""
    return [word.strip() for text in given or () for word in text.split(",") if word.strip()]


def listing(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table without lines, as wide as the terminal and at least 100 columns."""
    from io import StringIO
    from shutil import get_terminal_size

    from rich.console import Console
    from rich.table import Table

    table = Table(*headings, box=None)
    for row in rows:
        table.add_row(*row)
    text = StringIO()
    Console(file=text, width=max(100, get_terminal_size((160, 24)).columns), markup=False).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with columns of equal width: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        first, *others = (f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
        return "  ".join([f"{first.strip():<{widths[0]}}", *others]).rstrip()

    return [line(row) for row in rows]


JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", help="No progress, only the result.")]


def emit(result: dict[str, Any], as_json: bool, text: Callable[[], str]) -> None:
    """Print a command's result.

    Names that are not UTF-8 are escaped, and so is what the output's encoding lacks. Typer's own function would write
    UTF-8 where it takes the encoding for a mistake.
    """
    print(json.dumps(plain(result)) if as_json else text())
    sys.stdout.flush()
