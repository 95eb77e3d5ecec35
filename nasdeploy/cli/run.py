"""`nasdeploy run`."""

from typing import TYPE_CHECKING

from nasdeploy.cli.budget import (
    LatencyMsOption,
    LatencyOption,
    LatencyP95Option,
    MacsOption,
    MemoryOption,
    ParamsOption,
    SizeOption,
    bounds_of,
)
from nasdeploy.cli.output import JsonFlag, QuietFlag, emit
from nasdeploy.cli.runs import DeviceOption, changes
from nasdeploy.cli.search import StrictFlag
from nasdeploy.cli.train import DataOption, DirectoryOption, RecipeArgument, RestartFlag, SetOption

if TYPE_CHECKING:
    from nasdeploy.workflows.run import Product


def run(
    recipe: RecipeArgument,
    data: DataOption = None,
    latency_ms: LatencyMsOption = None,
    latency_p95_ms: LatencyP95Option = None,
    latency: LatencyOption = None,
    macs_m: MacsOption = None,
    params_m: ParamsOption = None,
    size_mb: SizeOption = None,
    memory_mb: MemoryOption = None,
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
    bounds = bounds_of(latency_ms, latency_p95_ms, latency, macs_m, params_m, size_mb, memory_mb)

    from nasdeploy.core.progress import Progress
    from nasdeploy.workflows import run as pipeline
    from nasdeploy.workflows.train import default_directory

    directory = run_directory or default_directory(loaded)
    product = pipeline.run_all(loaded, directory, bounds, Progress(quiet), restart=restart, strict=strict)
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
