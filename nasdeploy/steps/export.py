"""Exporting from a run: its supernet, its data and a request, into a proved model file."""

from pathlib import Path

from nasdeploy.data.datasets import open_data
from nasdeploy.data.images import ImageSets
from nasdeploy.export.export import Exporter
from nasdeploy.export.formats import FORMATS
from nasdeploy.export.manifest import ExportManifest, Origin
from nasdeploy.export.proof import Target
from nasdeploy.nn.device import compute_device
from nasdeploy.progress import Progress
from nasdeploy.recipe import Recipe
from nasdeploy.registry import lookup
from nasdeploy.steps.choice import ExportRequest
from nasdeploy.steps.same_data import require_same_data
from nasdeploy.store.run import Run
from nasdeploy.supernet.weights import load_supernet
from nasdeploy.train.checkpoint import Checkpoints


def export(
    request: ExportRequest, progress: Progress, *, form: str = "onnx", recalibrate: bool = True, out: Path | None = None
) -> tuple[Path, ExportManifest]:
    """Export, by default into RUN/export/DIGEST; the directory and what its manifest says.

    Raises `CheckFailed` if the file does not agree with PyTorch.
    """
    lookup("format", FORMATS, form)  # A typing mistake is not worth opening the data for.
    run, recipe = request.run, request.recipe
    directory = out or run.exports / request.arch.digest
    with run.lock():
        exporter = Exporter(
            supernet=load_supernet(Checkpoints(run.checkpoints).latest(), request.space).to(compute_device()),
            sets=_sets(run, recipe),
            data=recipe.data,
            recalibration=recipe.recalibration if recalibrate else None,
            seed=recipe.seed,
            target=Target(request.device, request.table),
            origin=Origin(run=str(run.path), recipe=recipe.to_json(), budget=request.budget),
            progress=progress,
        )
        manifest = exporter.export(request.arch, directory, form)
        run.finish("export", _facts(directory, manifest))
    return directory, manifest


def _sets(run: Run, recipe: Recipe) -> ImageSets:
    sets = open_data(recipe.data, recipe.seed)
    require_same_data(run, sets)
    return sets


def _facts(directory: Path, manifest: ExportManifest) -> dict[str, object]:
    accuracy, latency = manifest.proof.accuracy, manifest.proof.latency
    assert accuracy is not None and latency is not None  # The proof was passed.
    return {
        "directory": str(directory),
        "model": str(directory / manifest.file.name),
        "format": manifest.format,
        "digest": manifest.digest,
        "sha256": manifest.file.sha256,
        "top1": accuracy.top1,
        "measured_ms": latency.median_ms,
    }
