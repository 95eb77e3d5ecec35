"""All commands.

Modules of this package import nothing heavy at the top: `--help` has to be there in a third of a second.
"""

from typing import Annotated

import typer

from nasdeploy import __version__
from nasdeploy.cli.available import devices, doctor, formats
from nasdeploy.cli.export import export
from nasdeploy.cli.models import bench, predict, verify
from nasdeploy.cli.packs import pack, unpack
from nasdeploy.cli.profile import profile
from nasdeploy.cli.report import plot, report
from nasdeploy.cli.run import import_supernet, init, run
from nasdeploy.cli.runtimes import app as runtimes
from nasdeploy.cli.search import app as search
from nasdeploy.cli.space import app as space
from nasdeploy.cli.table import app as table
from nasdeploy.cli.train import evaluate, finetune, train

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"nasdeploy {__version__}")
        raise typer.Exit


@app.callback()
def _nasdeploy(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """From your images and your device to the most accurate network that measurably meets a latency budget."""


app.command()(init)
app.command()(run)
app.command()(train)
app.command("import")(import_supernet)
app.command()(devices)
app.command()(formats)
app.command()(doctor)
app.command()(profile)
app.add_typer(search, name="search")
app.command()(finetune)
app.command()(evaluate)
app.command()(export)
app.command()(report)
app.command()(plot)
app.command()(pack)
app.command()(unpack)
app.command()(predict)
app.command()(verify)
app.command()(bench)
app.add_typer(runtimes, name="runtimes")
app.add_typer(space, name="space")
app.add_typer(table, name="table")
