"""What commands print: results on stdout, as text or (with --json) as one JSON object; everything else on stderr."""

import json
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from nasdeploy.core.escaping import as_json as plain

JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", help="No progress, only the result.")]


def emit(result: dict[str, Any], as_json: bool, text: Callable[[], str]) -> None:
    """Print a command's result.

    Names that are not UTF-8 are escaped, and so is what the output's encoding lacks. Typer's own function would write
    UTF-8 where it takes the encoding for a mistake.
    """
    print(json.dumps(plain(result)) if as_json else text())
    sys.stdout.flush()
