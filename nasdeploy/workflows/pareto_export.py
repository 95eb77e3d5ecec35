"""Exporting every network of a search's Pareto front, with one table of their figures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nasdeploy.core.errors import CheckFailed, UserError
from nasdeploy.core.progress import Progress
from nasdeploy.exporting.manifest import Manifest
from nasdeploy.recipe import Recipe
from nasdeploy.searching.result import load_result
from nasdeploy.store.run import Run
from nasdeploy.tasks import task_of
from nasdeploy.workflows.export_request import ExportRequest, request_export

Export = Callable[[ExportRequest, Path], tuple[Path, Manifest]]
"""Exports what is asked for into a directory."""


@dataclass(frozen=True)
class ExportedFront:
    """What was exported, and what was not, one line each."""

    members: tuple[tuple[Path, Manifest], ...]
    problems: tuple[str, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Return the figures of each network's first model."""
        return [_row(directory, manifest) for directory, manifest in self.members]


def request_family(run: Run, recipe: Recipe, device: str | None, progress: Progress) -> tuple[ExportRequest, ...]:
    """Return a request for each network of the front of the run's search, fastest first.

    Raises `UserError` if there is no front. The budget is the winner's alone: the others may be
    slower than what was asked for.
    """
    if recipe.train.sampling.kind == "alone":
        raise UserError(f"{run.path}: one network was trained alone there, and has no front; leave `all_pareto` out")
    winner = request_export(run, recipe, None, device, progress)
    archs = [winner.space.arch(found.arch) for found in load_result(run.search_result).front]
    return tuple(
        winner if arch == winner.arch else replace(winner, arch=arch, budget={})
        for arch in sorted({*archs, winner.arch}, key=lambda arch: winner.space.plan(arch).macs)
    )


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


def _row(directory: Path, manifest: Manifest) -> dict[str, Any]:
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
