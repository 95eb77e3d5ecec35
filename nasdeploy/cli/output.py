"""What commands print: results on stdout, as text or (with --json) as one JSON object; everything else on stderr."""

import json
from collections.abc import Callable
from typing import Annotated, Any

import typer

JsonFlag = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
QuietFlag = Annotated[bool, typer.Option("--quiet", help="No progress, only the result.")]


def emit(result: dict[str, Any], as_json: bool, text: Callable[[], str]) -> None:
    """Print a command's result."""
    typer.echo(json.dumps(result) if as_json else text())
