"""Exporting from a run: its supernet, its data and a request, into proved model files.

Of a search's Pareto front every network is exported, with one table of their figures.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nasdeploy.core.errors import CheckFailed, UserError
from nasdeploy.core.progress import Progress
from nasdeploy.core.score import Metric
from nasdeploy.exporting.conversions import MAX_DROP
from nasdeploy.exporting.export import Exporter
from nasdeploy.exporting.formats import ExportJob, Extras
from nasdeploy.exporting.manifest import BundleManifest, ExportOrigin
from nasdeploy.exporting.proof import ExportTarget
from nasdeploy.latency.profile import reference_model
from nasdeploy.nn.device import compute_device
from nasdeploy.supernet.weights import load_supernet
from nasdeploy.tasks import task_of
from nasdeploy.workflows.export_request import ExportRequest

_NONE = Extras()


def export(
    request: ExportRequest,
    jobs: Sequence[ExportJob],
    progress: Progress,
    *,
    recalibrate: bool = True,
    out: Path | None = None,
    max_drop: float = MAX_DROP,
    extras: Extras = _NONE,
) -> tuple[Path, BundleManifest]:
    """Export, by default into RUN/export/DIGEST; return the directory and what its manifest says.

    `max_drop` is how many points of its score int8 may lose. Raises `CheckFailed` if a file does not agree with
    PyTorch.
    """
    run, recipe = request.run, request.recipe
    task = task_of(recipe.task)
    directory = out or run.exports / request.arch.digest
    with run.reading() as kept:
        if not kept and out is None:
            raise UserError(f"{run.path}: is read-only; say with `out=DIR` where the models go")
        exporter = Exporter(
            supernet=load_supernet(request.weights.path, request.space).to(compute_device()),
            task=task,
            data=task.open(recipe.data, recipe.seed, run),
            recalibration=recipe.recalibration if recalibrate else None,
            seed=recipe.seed,
            target=_target(request, max_drop),
            origin=ExportOrigin(
                run=str(run.path), recipe=recipe.to_json(), budget=request.budget, weights=request.weights.facts
            ),
            progress=progress,
        )
        manifest = exporter.export(request.arch, directory, jobs, extras)
        if kept:
            run.finish("export", _facts(directory, manifest, task.metric))
        else:
            progress.say(f"export: {run.path} is read-only, and does not know of it")
    return directory, manifest


def _target(request: ExportRequest, max_drop: float) -> ExportTarget:
    graph = partial(reference_model, request.space, request.device)
    return ExportTarget(request.device, request.table, reference_graph=graph, max_drop=max_drop)


def _facts(directory: Path, manifest: BundleManifest, metric: Metric) -> dict[str, object]:
    """The figures of the first model, for scripts; the manifest has all."""
    first = manifest.artefacts[0]
    accuracy, latency = first.proof.tested, first.proof.latency
    return {
        "directory": str(directory),
        "model": str(directory / first.file.name),
        "format": first.format,
        "digest": manifest.digest,
        "sha256": first.file.sha256,
        metric.key: accuracy.value if accuracy else None,
        "measured_ms": latency.median_ms if latency else None,
    }


Export = Callable[[ExportRequest, Path], tuple[Path, BundleManifest]]
"""Exports what is asked for into a directory."""


@dataclass(frozen=True)
class ExportedFront:
    """What was exported, and what was not, one line each."""

    members: tuple[tuple[Path, BundleManifest], ...]
    problems: tuple[str, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Return the figures of each network's first model."""
        return [_row(directory, manifest) for directory, manifest in self.members]


def export_family(requests: Sequence[ExportRequest], out: Path, export: Export, progress: Progress) -> ExportedFront:
    """Export each into `out`/DIGEST; one that fails its proof is left out, and the others are exported all the same."""
    members, problems = [], []
    for number, request in enumerate(requests, start=1):
        progress.say(f"export: {request.arch.digest}, {number} of {len(requests)} of the front")
        try:
            members.append(export(request, out / request.arch.digest))
        except CheckFailed as error:
            problems.append(str(error))
    return ExportedFront(tuple(members), tuple(problems))


def _row(directory: Path, manifest: BundleManifest) -> dict[str, Any]:
    first, key = manifest.artefacts[0], task_of(manifest.task_name).metric.key
    accuracy, latency = first.proof.tested, first.proof.latency
    return {
        "digest": manifest.digest,
        "directory": str(directory),
        "model": first.file.name,
        "macs_m": manifest.macs / 1e6,
        "params_m": manifest.params / 1e6,
        "megabytes": first.bytes / 1e6,
        key: accuracy.value if accuracy else None,
        f"{key}_interval": accuracy.interval if accuracy else None,
        "median_ms": latency.median_ms if latency else None,
        "p95_ms": latency.p95_ms if latency else None,
    }
