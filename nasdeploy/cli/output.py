"""What commands print: results on stdout, as text or (with --json) as one JSON object; everything else on stderr."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

import typer

from nasdeploy.core.escaping import as_json as plain


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


JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", help="No progress, only the result.")]


def emit(result: dict[str, Any], as_json: bool, text: Callable[[], str]) -> None:
    """Print a command's result.

    Names that are not UTF-8 are escaped, and so is what the output's encoding lacks. Typer's own function would write
    UTF-8 where it takes the encoding for a mistake.
    """
    print(json.dumps(plain(result)) if as_json else text())
    sys.stdout.flush()
