"""`nasdeploy init`, `import` and `run`: to a recipe, to a run of published weights, and to a proved model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nasdeploy.cli import completion
from nasdeploy.cli.output import DeviceOption, JsonFlag, QuietFlag, changes, emit, load_torch, onward
from nasdeploy.cli.report import with_page
from nasdeploy.cli.search import Given, PreferOption, StrictFlag, asked_of, preference_of, with_budget
from nasdeploy.cli.train import DataOption, DirectoryOption, RecipeArgument, RestartFlag, SetOption
from nasdeploy.cli.wording import typed

if TYPE_CHECKING:
    from nasdeploy.core.progress import Progress
    from nasdeploy.initial_recipe.text import FirstRecipe
    from nasdeploy.supernet.settings import StartSettings
    from nasdeploy.workflows.run import Product


def init(
    data: Annotated[Path, typer.Option("--data", metavar="DIR", help="Folder that holds train/CLASS/ or train/*.tar.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the recipe.")] = Path(
        "recipe.yaml"
    ),
    model: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="Pretrained network to start from, timm:NAME or torchvision:NAME; a trained run, run:DIR; or a "
            "published supernet, e.g. alphanet:FILE.",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", metavar="FILE", help="Weights of that network, instead of those that are published."),
    ] = None,
    hours: Annotated[float, typer.Option(min=0.01, max=10_000, help="Time that training may take here.")] = 1.0,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if there is one.")] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Write a recipe for a folder of images, or of tar shards.

    It is commented, and fits the images and this machine.
    """
    from nasdeploy.core.progress import Progress, duration
    from nasdeploy.recipe import start_of
    from nasdeploy.spaces import name_of
    from nasdeploy.store.files import locked_while_written

    with locked_while_written(out):
        found = _written(data, out, hours, force, Progress(quiet, typed), start_of(model, weights))
    folder, draft, recipe = found.folder, found.draft, found.recipe
    facts = {
        "recipe": str(out),
        "name": recipe.name,
        "space": name_of(recipe.space),
        "classes": list(folder.classes),
        "images": dict(folder.images),
        "size": recipe.images.size,
        "epochs": recipe.train.epochs,
        "batch_size": recipe.train.batch_size,
        "estimated_training_s": draft.training_s,
        "estimated_search_s": draft.search_s,
    }
    emit(
        facts,
        as_json,
        lambda: (
            f"wrote {out}: space {name_of(recipe.space)}, {recipe.train.epochs} epochs, about "
            f"{duration(draft.training_s)} of training and {duration(draft.search_s)} of search\n"
            f"{onward(f'run {out}')}"
        ),
    )


def _written(
    data: Path, out: Path, hours: float, force: bool, progress: "Progress", start: "StartSettings | None"
) -> "FirstRecipe":
    """Write the recipe."""
    from nasdeploy.core.errors import UserError
    from nasdeploy.store.files import require_writable, write_text

    if out.exists() and not force:
        raise UserError(f"{out}: exists already; pass --force to replace it, or --out FILE for another name")
    require_writable(out)

    load_torch(progress, "nasdeploy.initial_recipe.text")

    from nasdeploy.initial_recipe.text import first_recipe

    found = first_recipe(data, hours, str(out), progress, start)
    write_text(out, found.text)
    return found


def import_supernet(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="What published it: alphanet, attentivenas or ofa.",
            autocompletion=completion.published,
        ),
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Its weights, of PyTorch or safetensors.")],
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="The run directory that it becomes.")],
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="DIR", help="Folder of images of its classes [default: looked for when it is needed]."
        ),
    ] = None,
    assignments: SetOption = None,
    restart: Annotated[bool, typer.Option("--restart", help="Replace the run in that directory.")] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Make a finished run of a published supernet.

    Nothing in its file is executed.
    """
    import nasdeploy
    from nasdeploy.core.progress import Progress

    progress = Progress(quiet, typed)
    load_torch(progress, "nasdeploy.workflows.start")
    run = nasdeploy.import_supernet(
        kind, file, out=out, data=data, changes=assignments or (), restart=restart, progress=progress
    )
    facts = run.facts("train")
    result = {"run": str(run.path), "space": run.manifest.recipe["space"], "classes": run.manifest.output_size}
    emit(
        {**result, **facts["imported"]},
        as_json,
        lambda: (
            f"imported {file} as {run.path}: space {result['space']}, {result['classes']} classes\n"
            f"{onward(f'evaluate {out}', f'search --run {out}')}"
        ),
    )


@with_budget
def run(
    recipe: RecipeArgument,
    budget: Given,
    data: DataOption = None,
    run_directory: DirectoryOption = None,
    device: DeviceOption = None,
    assignments: SetOption = None,
    prefer: PreferOption = None,
    restart: RestartFlag = False,
    strict: StrictFlag = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Train, profile, search and export in one go.

    It fine-tunes, too, if the recipe says so, and writes a report; the same command resumes.
    """
    from nasdeploy.recipe import load_recipe

    loaded = load_recipe(recipe, [*changes(assignments, device), *preference_of(prefer)], data)
    asked = asked_of(budget)

    from nasdeploy.core.progress import Progress

    progress = Progress(quiet, typed)
    load_torch(progress, "nasdeploy.workflows.run")

    from nasdeploy.workflows import run as pipeline
    from nasdeploy.workflows.train import default_directory

    directory = run_directory or default_directory(loaded)
    product = pipeline.run_all(loaded, directory, asked, progress, restart=restart, strict=strict)
    result = {
        "run": str(product.run.path),
        "model": str(product.directory / product.manifest.artefacts[0].file.name),
        "search": product.result.model_dump(mode="json"),
        "export": product.manifest.model_dump(mode="json"),
        "report": with_page(product.run, progress),
    }
    emit(result, as_json, lambda: _product(product))


def _product(product: "Product") -> str:
    from nasdeploy.cli.export import describe
    from nasdeploy.cli.searches import choice_lines

    searched = f"{product.run.path}: searched {product.result.evaluated} networks"
    return "\n".join([searched, *choice_lines(product.result), describe(product.directory, product.manifest)])
