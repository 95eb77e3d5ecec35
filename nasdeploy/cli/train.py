"""`nasdeploy train`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from nasdeploy.cli.output import JsonFlag, QuietFlag, emit

RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped one.")]
DataOption = Annotated[str | None, typer.Option("--data", metavar="DIR", help="Folder of images, over the recipe's.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe, e.g. --set train.epochs=5.")
]
NameOption = Annotated[str | None, typer.Option("--name", help="Name of the run [default: the recipe's].")]
RestartFlag = Annotated[bool, typer.Option("--restart", help="Discard the run of that name and start anew.")]


def train(
    recipe: RecipeArgument,
    data: DataOption = None,
    name: NameOption = None,
    assignments: SetOption = None,
    init: Annotated[
        Path | None, typer.Option("--init", metavar="RUN", help="Start from this run's weights, with a new classifier.")
    ] = None,
    restart: RestartFlag = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Train a supernet with in-place distillation; the same command resumes."""
    from nasdeploy.recipe import load_recipe

    loaded = load_recipe(recipe, [*(assignments or ()), *([f"name={json.dumps(name)}"] if name else ())], data)

    from nasdeploy.progress import Progress
    from nasdeploy.steps import train as step

    run = step.train(loaded, Progress(quiet), init=init, restart=restart)
    facts = run.facts("train")
    emit({"run": str(run.path), **facts}, as_json, lambda: _text(run.path, facts))


def _text(path: Path, facts: dict[str, object]) -> str:
    lines = [f"trained {path}"]
    validation = facts.get("validation")
    if isinstance(validation, dict):
        for name, score in validation.items():
            lines.append(f"  {name:<22} top-1 {100 * score['top1']:.2f} % +- {100 * score['top1_error']:.2f}")
    return "\n".join(lines)
