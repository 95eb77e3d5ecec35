"""All steps in a row: train, profile, search, fine-tune if the recipe says so, export; nothing is done twice."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.core.space import SearchSpace
from nasdeploy.exporting.bundle.write import load_bundle
from nasdeploy.exporting.formats import plan_jobs
from nasdeploy.exporting.manifest import MANIFEST, BundleManifest, Recalibration
from nasdeploy.recipe import Recipe, with_range
from nasdeploy.searching.budget import Asked
from nasdeploy.searching.result import SearchResult, load_result
from nasdeploy.searching.settings import SearchSettings
from nasdeploy.store.run import Run
from nasdeploy.workflows import export as export_step
from nasdeploy.workflows import search as search_step
from nasdeploy.workflows import train as train_step
from nasdeploy.workflows.export import ExportRequest, request_export
from nasdeploy.workflows.finetune import ensure_finetuned, request_finetune
from nasdeploy.workflows.request import (
    SearchRequest,
    export_device,
    foresee_search,
    latency_devices,
    request_search,
    require_whole_way,
)
from nasdeploy.workflows.resume import begun, has_its_weights
from nasdeploy.workflows.table import ensure_table


@dataclass(frozen=True)
class Product:
    """What a whole run comes to."""

    run: Run
    result: SearchResult
    directory: Path
    manifest: BundleManifest


def run_all(
    recipe: Recipe, directory: Path, asked: Asked, progress: Progress, *, restart: bool = False, strict: bool = False
) -> Product:
    """Make a proved model of images, within the budget `asked` (by default the recipe's); resume what was stopped."""
    require_whole_way(recipe, asked)
    run = _trained(recipe, directory, progress, restart, lambda space: foresee_search(recipe, asked, space, strict))
    recipe = with_range(recipe, run.manifest.range)
    for device in latency_devices(recipe, asked):
        ensure_table(run, recipe, device, progress)
    request = request_search(run, recipe, asked, strict, progress)
    result = _searched(request, progress)
    if recipe.finetune.epochs:
        ensure_finetuned(request_finetune(run, recipe, None, progress), progress)
    directory, manifest = _exported(request_export(run, recipe, None, export_device(recipe, asked), progress), progress)
    return Product(run, result, directory, manifest)


def _trained(
    recipe: Recipe, directory: Path, progress: Progress, restart: bool, require: Callable[[SearchSpace], None]
) -> Run:
    run = None if restart else begun(recipe, directory)
    if run is None or not run.is_finished("train") or not has_its_weights(run):
        trained = train_step.train(recipe, directory, progress, restart=restart, require=require)
        assert trained is not None  # This is the only process.
        return trained
    progress.say(f"train: {run.path} is finished")
    return run


def _searched(request: SearchRequest, progress: Progress) -> SearchResult:
    """The run's search result if it is of this request, else that of a search now."""
    run = request.run
    if run.is_finished("search") and _asked(run.facts("search")) == _asked(search_step.facts(request)):
        found = load_result(run.search_result)
        if found.weights in (None, request.weights.facts):
            progress.say(f"search: {run.search_result} is there")
            return found
    result = search_step.search(request, progress)
    assert result is not None  # This is the only process.
    return result


def _asked(facts: dict[str, Any]) -> dict[str, Any]:
    """Return what a search was asked for as if by this version: earlier ones knew fewer costs, and fewer settings.

    What is not bounded is left out, and settings that did not exist have their defaults.
    """
    budget = {key: bound for key, bound in facts["budget"].items() if bound is not None}
    settings = {**SearchSettings().model_dump(mode="json"), **facts["settings"]}
    return {**facts, "budget": budget, "settings": settings}


def _exported(request: ExportRequest, progress: Progress) -> tuple[Path, BundleManifest]:
    """The export that is there, if it is whole, recalibrated, and for the same device and budget, else a new one."""
    directory = request.run.exports / request.arch.digest
    if (directory / MANIFEST).exists():
        try:
            manifest = load_bundle(directory)
        except UserError as error:
            progress.say(f"export: {error}")
        else:
            origin = manifest.origin
            same = manifest.device == request.device and origin.budget == request.budget
            same = same and origin.weights in (None, request.weights.facts)
            same = same and origin.own == (request.own.record.own_weights if request.own else None)
            if same and isinstance(manifest.recalibration, Recalibration):
                progress.say(f"export: {directory} is there")
                return directory, manifest
    return export_step.export(request, plan_jobs(("onnx",), request.device), progress)
