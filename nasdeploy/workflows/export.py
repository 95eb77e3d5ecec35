"""Exporting from a run: its supernet, its data and a request, into proved model files."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.exporting.conversions import MAX_DROP
from nasdeploy.exporting.export import Exporter
from nasdeploy.exporting.jobs import Extras, Job
from nasdeploy.exporting.manifest import ExportManifest, Origin
from nasdeploy.exporting.proof import Target
from nasdeploy.latency.profile import reference_model
from nasdeploy.nn.device import compute_device
from nasdeploy.supernet.weights import load_supernet
from nasdeploy.workflows.export_request import ExportRequest
from nasdeploy.workflows.run_data import open_data_of

_NONE = Extras()


def export(
    request: ExportRequest,
    jobs: Sequence[Job],
    progress: Progress,
    *,
    recalibrate: bool = True,
    out: Path | None = None,
    max_drop: float = MAX_DROP,
    extras: Extras = _NONE,
) -> tuple[Path, ExportManifest]:
    """Export, by default into RUN/export/DIGEST; the directory and what its manifest says.

    `max_drop`: points of top-1 that int8 may lose. Raises `CheckFailed` if a file does not agree with PyTorch.
    """
    run, recipe = request.run, request.recipe
    directory = out or run.exports / request.arch.digest
    with run.reading() as kept:
        if not kept and out is None:
            raise UserError(f"{run.path}: is read-only; say with `out=DIR` where the models go")
        exporter = Exporter(
            supernet=load_supernet(request.weights.path, request.space).to(compute_device()),
            sets=open_data_of(run, recipe),
            data=recipe.images,
            recalibration=recipe.recalibration if recalibrate else None,
            seed=recipe.seed,
            target=_target(request, max_drop),
            origin=Origin(
                run=str(run.path), recipe=recipe.to_json(), budget=request.budget, weights=request.weights.facts
            ),
            progress=progress,
        )
        manifest = exporter.export(request.arch, directory, jobs, extras)
        if kept:
            run.finish("export", _facts(directory, manifest))
        else:
            progress.say(f"export: {run.path} is read-only, and does not know of it")
    return directory, manifest


def _target(request: ExportRequest, max_drop: float) -> Target:
    graph = partial(reference_model, request.space, request.device)
    return Target(request.device, request.table, reference_graph=graph, max_drop=max_drop)


def _facts(directory: Path, manifest: ExportManifest) -> dict[str, object]:
    """The file of the first model, for scripts; the manifest has all."""
    first = manifest.artefacts[0]
    accuracy, latency = first.proof.accuracy, first.proof.latency
    return {
        "directory": str(directory),
        "model": str(directory / first.file.name),
        "format": first.format,
        "digest": manifest.digest,
        "sha256": first.file.sha256,
        "top1": accuracy.top1 if accuracy else None,
        "measured_ms": latency.median_ms if latency else None,
    }
