"""`nasdeploy train`, `finetune` and `evaluate`: a supernet, one network further, and how sub-networks do."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasdeploy.cli import completion
from nasdeploy.cli.output import (
    ChangeOption,
    JsonFlag,
    MovedDataOption,
    QuietFlag,
    RunOption,
    aligned,
    chosen_run,
    emit,
    facts,
    load_torch,
    onward,
    wrapped,
)
from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import UserError

if TYPE_CHECKING:
    from nasdeploy.recipe import Recipe


RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A recipe file, or the name of a shipped one.", autocompletion=completion.recipes
    ),
]
OptionalRecipeArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="[RECIPE]",
        help="A recipe file, or the name of a shipped one [default: the run's own].",
        autocompletion=completion.recipes,
    ),
]
DataOption = Annotated[str | None, typer.Option("--data", metavar="DIR", help="Folder of images, over the recipe's.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe, e.g. --set train.epochs=5.")
]
DirectoryOption = Annotated[
    Path | None,
    typer.Option(
        "--run",
        metavar="DIR",
        help="Run directory [default: runs/NAME, of the recipe].",
        autocompletion=completion.runs,
    ),
]
RestartFlag = Annotated[bool, typer.Option("--restart", help="Discard the run in that directory and start anew.")]


def train(
    recipe: OptionalRecipeArgument = None,
    data: DataOption = None,
    run_directory: DirectoryOption = None,
    assignments: SetOption = None,
    init: Annotated[
        Path | None,
        typer.Option(
            "--init",
            metavar="FILE|RUN",
            help="Start from these weights (.pt, .safetensors); the classifier is kept of a run with the same classes.",
            autocompletion=completion.runs,
        ),
    ] = None,
    alone: Annotated[
        str | None,
        typer.Option(
            "--alone",
            metavar="ARCH",
            help="Train only this network: a name, digest, JSON file or JSON.",
            autocompletion=completion.architectures,
        ),
    ] = None,
    restart: RestartFlag = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Train a supernet with in-place distillation.

    The same command resumes, and so does --run without a recipe.
    """
    from nasdeploy.distributed import FailedElsewhere, first_of_host, first_of_run, reported_once

    try:
        with reported_once(first_of_host):
            loaded = _loaded(recipe, run_directory, assignments or (), data, alone)

        import nasdeploy
        from nasdeploy.core.progress import Progress

        progress = Progress(quiet, typed)
        load_torch(progress, "nasdeploy.workflows.train")
        run = nasdeploy.train(loaded, run=run_directory, init=init, restart=restart, progress=progress)
    except FailedElsewhere as error:
        raise typer.Exit(error.exit_code) from None
    if not first_of_run():
        return
    of_run = run.facts("train")
    then = "export" if loaded.train.last.sampling.kind == "alone" else "profile"
    text = f"\n{onward(f'{then} --run {run.path}')}"
    emit({"run": str(run.path), **of_run}, as_json, lambda: _text(run.path, of_run) + text)


def _loaded(
    recipe: str | None, run: Path | None, assignments: Sequence[str], data: str | None, alone: str | None
) -> "Recipe":
    """The recipe that is given, or that of the run in a directory."""
    from nasdeploy.recipe import load_recipe, recipe_of
    from nasdeploy.store.run import Run

    if recipe is not None:
        loaded = load_recipe(recipe, assignments, data)
    elif run is not None:
        loaded = recipe_of(Run.open(run), assignments, data)
    else:
        raise UserError("no recipe given; name one, or with --run DIR a run to go on with")
    if alone is not None:
        from nasdeploy.recipe import train_alone

        loaded = train_alone(loaded, alone)
    return loaded


def _text(path: Path, of_run: dict[str, Any]) -> str:
    from nasdeploy.training.sandwich import skipped_text

    rows = []
    for phase in of_run.get("phases", ()):
        early = ", ended early" if phase["early"] else ""
        rows.append((f"phase {phase['name']}", f"{phase['epochs']} epoch{'' if phase['epochs'] == 1 else 's'}{early}"))
    validation = of_run.get("validation")
    if isinstance(validation, dict):
        for name, score in validation.items():
            rows.append((name, f"top-1 {100 * score['top1']:.2f} % +- {100 * score['top1_error']:.2f}"))
    skipped = skipped_text(of_run["skipped"], of_run["steps"])
    if skipped is not None:
        rows.append(("left out", skipped))
    return "\n".join([f"trained {path}", *facts(rows)])


def finetune(
    arch: Annotated[
        str | None,
        typer.Option(
            "--arch",
            help="Name, digest, JSON file or JSON of a network [default: the search's winner].",
            autocompletion=completion.architectures,
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", metavar="N", min=1, help="Over the recipe's finetune.epochs [default: 4].")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe, e.g. finetune.learning_rate=5e-4."),
    ] = None,
    data: MovedDataOption = None,
    run_directory: RunOption = None,
    restart: Annotated[bool, typer.Option("--restart", help="Discard an earlier fine-tuning of the network.")] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Train one network of a run further, alone.

    Its original is the teacher; the same command resumes.
    """
    import nasdeploy
    from nasdeploy.core.progress import Progress

    run, progress = chosen_run(run_directory), Progress(quiet, typed)
    changed = [*(assignments or ()), *([] if epochs is None else [f"finetune.epochs={epochs}"])]
    load_torch(progress, "nasdeploy.workflows.finetune")
    found = nasdeploy.finetune(run, arch, data=data, changes=changed, restart=restart, progress=progress)
    then = onward(f"export --run {run.path} --arch {found.record.digest}")
    emit({"run": str(run.path), **found.to_json()}, as_json, lambda: f"{run.path}: {found.text}\n{then}")


def evaluate(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN]...", help="Run directories [default: the latest in runs/].", autocompletion=completion.runs
        ),
    ] = None,
    sample: Annotated[int, typer.Option("--sample", metavar="N", help="Sub-networks of each run.")] = 50,
    bins: Annotated[int, typer.Option("--bins", metavar="B", min=1, max=50, help="Regimes of MACs.")] = 5,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where picture and JSON go [default: the first run].")
    ] = None,
    assignments: ChangeOption = None,
    data: MovedDataOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Compare supernets by the accuracy of sampled sub-networks.

    Box plots show it by regime of MACs.
    """
    from nasdeploy.core.progress import Progress
    from nasdeploy.workflows import evaluate as step

    comparison = step.request_comparison(runs or [], sample, bins, assignments or (), data)

    progress = Progress(quiet, typed)
    load_torch(progress, "nasdeploy.workflows.evaluator")
    result = step.evaluate(comparison, out, progress)
    picture = (out or comparison.contenders[0].run.path) / step.PICTURE
    emit({**result, "picture": str(picture)}, as_json, lambda: _evaluated(picture, result))


def _evaluated(picture: Path, result: dict[str, Any]) -> str:
    edges = result["edges_macs_m"]
    heading = ["M MACs", "networks", "minimum", "quartile", "median", "quartile", "maximum"]
    lines = []
    for entry in result["runs"]:
        unreadable = f", {entry['unreadable']} unreadable left out" if entry["unreadable"] else ""
        lines += wrapped(f"{entry['run']}: top-1 in % on {result['images']}{unreadable}")
        regimes = zip(edges, edges[1:], entry["regimes"], strict=False)
        lines += aligned([heading, *(_regime(low, high, box) for low, high, box in regimes if box is not None)])
    return "\n".join([*lines, f"drawn in {picture}"])


def _regime(low: float, high: float, box: dict[str, Any]) -> list[str]:
    names = ("minimum", "first_quartile", "median", "third_quartile", "maximum")
    return [f"{low:.3g} to {high:.3g}", str(box["count"]), *(f"{100 * box[name]:.2f}" for name in names)]
