"""The command `nasdeploy`: one thin file a command, and errors as one line with an exit code.

Modules of this package import nothing heavy at the top: `--help` has to be there in a third of a second.
"""

import os
import sys

import typer

from nasdeploy.cli.evaluate import evaluate
from nasdeploy.cli.export import export
from nasdeploy.cli.init import init
from nasdeploy.cli.profile import profile
from nasdeploy.cli.run import run
from nasdeploy.cli.search import search
from nasdeploy.cli.space import app as space
from nasdeploy.cli.train import train
from nasdeploy.errors import Interrupted, NasdeployError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.callback()
def _nasdeploy() -> None:
    """From your images and your device to the most accurate network that measurably meets a latency budget."""


app.command()(init)
app.command()(run)
app.command()(train)
app.command()(profile)
app.command()(search)
app.command()(evaluate)
app.command()(export)
app.add_typer(space, name="space")


def main() -> None:
    """Console script; maps every expected error to one line on stderr and its exit code."""
    # PyTorch's threads that wait for each other sleep instead of spinning: as fast on a machine of one's own, and about
    # seven times as fast where another process wants a core too. It has to be said before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        app()
    except NasdeployError as error:
        _stop(error)
    except SystemExit as stop:
        # Typer turns Ctrl-C into exit code 130 without a word.
        if stop.code != Interrupted.exit_code:
            raise
        _stop(Interrupted("stopped; what was finished is kept, and the same command resumes"))
    except OSError as error:
        if error.strerror is None:
            raise
        _stop(NasdeployError(f"{error.filename}: {error.strerror}" if error.filename else error.strerror))


def _stop(error: NasdeployError) -> None:
    print(f"nasdeploy: {error}", file=sys.stderr)
    raise SystemExit(error.exit_code)
