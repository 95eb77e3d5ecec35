"""`nasdeploy run`."""

from typing import TYPE_CHECKING

from nasdeploy.cli.budget import Given, asked_of, with_budget
from nasdeploy.cli.output import JsonFlag, QuietFlag, emit
from nasdeploy.cli.runs import DeviceOption, changes
from nasdeploy.cli.search import StrictFlag
from nasdeploy.cli.train import DataOption, DirectoryOption, RecipeArgument, RestartFlag, SetOption
from nasdeploy.cli.wording import typed

if TYPE_CHECKING:
    from nasdeploy.workflows.run import Product


@with_budget
def run(
    recipe: RecipeArgument,
    budget: Given,
    data: DataOption = None,
    run_directory: DirectoryOption = None,
    device: DeviceOption = None,
    assignments: SetOption = None,
    restart: RestartFlag = False,
    strict: StrictFlag = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Train, profile, search and export in one go; the same command resumes."""
    from nasdeploy.recipe import load_recipe

    loaded = load_recipe(recipe, changes(assignments, device), data)
    asked = asked_of(budget)

    from nasdeploy.core.progress import Progress
    from nasdeploy.workflows import run as pipeline
    from nasdeploy.workflows.train import default_directory

    directory = run_directory or default_directory(loaded)
    product = pipeline.run_all(loaded, directory, asked, Progress(quiet, typed), restart=restart, strict=strict)
    result = {
        "run": str(product.run.path),
        "model": str(product.directory / product.manifest.artefacts[0].file.name),
        "search": product.result.model_dump(mode="json"),
        "export": product.manifest.model_dump(mode="json"),
    }
    emit(result, as_json, lambda: _text(product))


def _text(product: "Product") -> str:
    from nasdeploy.cli.export import describe

    return f"{product.run.path}: searched {product.result.evaluated} networks\n" + describe(
        product.directory, product.manifest
    )
