"""`nasdeploy run`."""

from typing import TYPE_CHECKING

from nasdeploy.cli.output import JsonFlag, QuietFlag, emit
from nasdeploy.cli.runs import DeviceOption, changes
from nasdeploy.cli.search import LatencyMsOption, LatencyOption, MacsOption, ParamsOption, StrictFlag, bounds_of
from nasdeploy.cli.train import DataOption, DirectoryOption, RecipeArgument, RestartFlag, SetOption

if TYPE_CHECKING:
    from nasdeploy.pipeline import Product


def run(
    recipe: RecipeArgument,
    data: DataOption = None,
    latency_ms: LatencyMsOption = None,
    latency: LatencyOption = None,
    macs_m: MacsOption = None,
    params_m: ParamsOption = None,
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
    bounds = bounds_of(latency_ms, latency, macs_m, params_m)

    from nasdeploy import pipeline
    from nasdeploy.progress import Progress
    from nasdeploy.steps.train import default_directory

    directory = run_directory or default_directory(loaded)
    product = pipeline.run_all(loaded, directory, bounds, Progress(quiet), restart=restart, strict=strict)
    result = {
        "run": str(product.run.path),
        "model": str(product.directory / product.manifest.file.name),
        "search": product.result.model_dump(mode="json"),
        "export": product.manifest.model_dump(mode="json"),
    }
    emit(result, as_json, lambda: _text(product))


def _text(product: "Product") -> str:
    from nasdeploy.cli.export import describe

    return f"{product.run.path}: searched {product.result.evaluated} networks\n" + describe(
        product.directory, product.manifest
    )
