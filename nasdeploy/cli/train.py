"""`nasdeploy train`, `finetune` and `evaluate`: a supernet, one network further, and how sub-networks do."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasdeploy.cli.output import ChangeOption, JsonFlag, MovedDataOption, QuietFlag, RunOption, chosen_run, emit
from nasdeploy.cli.wording import typed
from nasdeploy.core.errors import UserError

if TYPE_CHECKING:
    from nasdeploy.recipe import Recipe


RecipeArgument = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped one.")]
OptionalRecipeArgument = Annotated[
    str | None,
    typer.Argument(metavar="[RECIPE]", help="A recipe file, or the name of a shipped one [default: the run's own]."),
]
DataOption = Annotated[str | None, typer.Option("--data", metavar="DIR", help="Folder of images, over the recipe's.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the recipe, e.g. --set train.epochs=5.")
]
DirectoryOption = Annotated[
    Path | None, typer.Option("--run", metavar="DIR", help="Run directory [default: runs/NAME, of the recipe].")
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
        ),
    ] = None,
    alone: Annotated[
        str | None,
        typer.Option("--alone", metavar="ARCH", help="Train only this network: a name, digest, JSON file or JSON."),
    ] = None,
    restart: RestartFlag = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Train a supernet with in-place distillation; the same command resumes, and so does --run without a recipe."""
    from nasdeploy.distributed import FailedElsewhere, first_of_host, first_of_run, reported_once

    try:
        with reported_once(first_of_host):
            loaded = _loaded(recipe, run_directory, assignments or (), data, alone)

        import nasdeploy
        from nasdeploy.core.progress import Progress

        progress = Progress(quiet, typed)
        run = nasdeploy.train(loaded, run=run_directory, init=init, restart=restart, progress=progress)
    except FailedElsewhere as error:
        raise typer.Exit(error.exit_code) from None
    if not first_of_run():
        return
    facts = run.facts("train")
    emit({"run": str(run.path), **facts}, as_json, lambda: _text(run.path, facts))


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


def _text(path: Path, facts: dict[str, Any]) -> str:
    from nasdeploy.training.sandwich import skipped_text

    lines = [f"trained {path}"]
    for phase in facts.get("phases", ()):
        early = ", ended early" if phase["early"] else ""
        lines.append(f"  phase {phase['name']}: {phase['epochs']} epoch{'' if phase['epochs'] == 1 else 's'}{early}")
    validation = facts.get("validation")
    if isinstance(validation, dict):
        for name, score in validation.items():
            lines.append(f"  {name:<22} top-1 {100 * score['top1']:.2f} % +- {100 * score['top1_error']:.2f}")
    skipped = skipped_text(facts["skipped"], facts["steps"])
    if skipped is not None:
        lines.append(f"  {skipped}")
    return "\n".join(lines)


def finetune(
    arch: Annotated[
        str | None,
        typer.Option("--arch", help="Name, digest, JSON file or JSON of a network [default: the search's winner]."),
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
    """Train one network of a run further alone, with its original as teacher; the same command resumes."""
    import nasdeploy
    from nasdeploy.core.progress import Progress

    run, progress = chosen_run(run_directory), Progress(quiet, typed)
    changed = [*(assignments or ()), *([] if epochs is None else [f"finetune.epochs={epochs}"])]
    found = nasdeploy.finetune(run, arch, data=data, changes=changed, restart=restart, progress=progress)
    emit({"run": str(run.path), **found.to_json()}, as_json, lambda: f"{run.path}: {found.text}")


def evaluate(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Run directories [default: the latest in runs/].")
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
    """Compare supernets: accuracy of sampled sub-networks by regime of MACs, as box plots."""
    from nasdeploy.core.progress import Progress
    from nasdeploy.workflows import evaluate as step

    comparison = step.request_comparison(runs or [], sample, bins, assignments or (), data)

    result = step.evaluate(comparison, out, Progress(quiet, typed))
    picture = (out or comparison.contenders[0].run.path) / step.PICTURE
    emit({**result, "picture": str(picture)}, as_json, lambda: _evaluated(picture, result))


def _evaluated(picture: Path, result: dict[str, Any]) -> str:
    edges = result["edges_macs_m"]
    heading = (
        f"{'M MACs':>16} {'networks':>9} {'minimum':>8} {'quartile':>9} {'median':>8} {'quartile':>9} {'maximum':>8}"
    )
    lines = []
    for entry in result["runs"]:
        unreadable = f", {entry['unreadable']} unreadable left out" if entry["unreadable"] else ""
        lines += [f"{entry['run']}: top-1 in % on {result['images']}{unreadable}", heading]
        rows = zip(edges, edges[1:], entry["regimes"], strict=False)
        lines += [_regime(low, high, box) for low, high, box in rows if box is not None]
    return "\n".join([*lines, f"drawn in {picture}"])


def _regime(low: float, high: float, box: dict[str, Any]) -> str:
    names = ("minimum", "first_quartile", "median", "third_quartile", "maximum")
    figures = (f"{100 * box[name]:.2f}" for name in names)
    return "{:>16} {:>9} {:>8} {:>9} {:>8} {:>9} {:>8}".format(f"{low:.3g} to {high:.3g}", box["count"], *figures)
