"""The run that a command works on, and how its recipe is changed for one call."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
