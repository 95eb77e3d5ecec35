"""Exporting from a run: what is asked for, checked before the work, and the proved model files that come of it.

The architecture is one that a user means, or each of a search's Pareto front. Torch-free until one is exported.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import CheckFailed, UserError
from nasdeploy.core.progress import Progress
from nasdeploy.core.score import Metric
from nasdeploy.core.space import SearchSpace
from nasdeploy.exporting.formats import ExportJob, Extras
from nasdeploy.exporting.manifest import BundleManifest, ExportOrigin
from nasdeploy.exporting.predictions import predictions_file
from nasdeploy.latency.table import LatencyTable, find_table, table_path
from nasdeploy.recipe import Recipe, space_of
from nasdeploy.runtimes.device import Device, load_device
from nasdeploy.searching.result import SearchResult, load_result
from nasdeploy.spaces.resolve import resolve_arch
from nasdeploy.store.checkpoints import Weights, trained_weights
from nasdeploy.store.evaluations import known_architectures
from nasdeploy.store.networks import KeptNetwork, own_network
from nasdeploy.store.run import Run
from nasdeploy.tasks import task_of

if TYPE_CHECKING:
    from nasdeploy.exporting.proof import ExportTarget


@dataclass(frozen=True)
class ExportRequest:
    """An architecture of a run and the device that it is for; `table` is None if that was not profiled.

    `budget` is what the search kept to, e.g. `{"latency_ms": 2.5}`; empty for an architecture that the user names.
    """

    run: Run
    recipe: Recipe
    space: SearchSpace
    arch: Arch
    device: Device
    table: LatencyTable | None
    budget: dict[str, float]
    weights: Weights

    @property
    def own(self) -> KeptNetwork | None:
        """The network of the architecture that the run keeps with weights of its own; None if it has the supernet's.

        Raises `UserError` if that is damaged.
        """
        return own_network(self.run, self.arch)


def request_export(run: Run, recipe: Recipe, text: str | None, device: str | None, progress: Progress) -> ExportRequest:
    """Return what is asked for by `--arch` and `--device`; without them the search's winner on the search's device.

    In a run that trained one network alone it is that one. `recipe` is the run's, with what was changed for this call.

    Raises `UserError` if there is no such architecture or device, no search result, or no trained supernet.
    """
    space = space_of(run, recipe)
    weights = trained_weights(run)
    arch, result = network_asked_for(run, recipe, space, text, lambda what: progress.say(f"export: {what}"))
    target = load_device(device or recipe.device) if result is None else _device(device, recipe, result)
    budget = {} if result is None else result.budget.upper(target.name)
    table = find_table(space, target) if table_path(space, target).exists() else None
    return ExportRequest(run, recipe, space, arch, target, table, budget, weights)


def network_asked_for(
    run: Run, recipe: Recipe, space: SearchSpace, text: str | None, say: Callable[[str], None]
) -> tuple[Arch, SearchResult | None]:
    """Return the network that `text` means, by default the one trained alone, or the winner of the search with that.

    What it is by default is said. Raises `UserError` if there is no such network, or a search of other weights.
    """
    if text is not None:
        return resolve_arch(text, space, known_architectures(run.search_database, space)), None
    if recipe.train.last.sampling.kind == "alone":
        arch = space.arch(recipe.train.last.sampling.arch)
        say(f"{arch.digest}, the network that was trained alone")
        return arch, None
    result = load_result(run.search_result)
    arch = _winner(result, space, trained_weights(run), run.search_result)
    say(f"{arch.digest}, the winner of the search in {run.search_result}")
    return arch, result


def request_family(run: Run, recipe: Recipe, device: str | None, progress: Progress) -> tuple[ExportRequest, ...]:
    """Return a request for each network of the front of the run's search, fastest first.

    Raises `UserError` if there is no front. The budget is the winner's alone: the others may be
    slower than what was asked for.
    """
    if recipe.train.last.sampling.kind == "alone":
        raise UserError(f"{run.path}: one network was trained alone there, and has no front; leave `all_pareto` out")
    winner = request_export(run, recipe, None, device, progress)
    archs = [winner.space.arch(found.arch) for found in load_result(run.search_result).front]
    return tuple(
        winner if arch == winner.arch else replace(winner, arch=arch, budget={})
        for arch in sorted({*archs, winner.arch}, key=lambda arch: winner.space.plan(arch).macs)
    )


def _winner(result: SearchResult, space: SearchSpace, weights: Weights, path: Path) -> Arch:
    """Return the search's winner; raises `UserError` if the result in `path` is of another space or other weights."""
    if result.space != space.digest:
        raise UserError(f"{path}: of another search space ({result.space}, not {space.digest}); search again")
    if result.weights not in (None, weights.facts):
        raise UserError(
            f"{path}: searched on other weights ({result.weights}) than {weights.path} holds ({weights.facts}); search "
            "again with `nd.search()`, or name a network with `arch`"
        )
    try:
        return space.arch(result.winner.arch)
    except UserError as error:
        raise UserError(f"{path}: damaged ({error}); search again") from None


def _device(given: str | None, recipe: Recipe, result: SearchResult) -> Device:
    """Return the device given; else the search's, which is known by name only; else the recipe's."""
    if given is not None:
        return load_device(given)
    of_recipe = load_device(recipe.device)
    if result.device in (None, of_recipe.name):
        return of_recipe
    try:
        return load_device(str(result.device))
    except UserError as error:
        raise UserError(f"the search was for device {result.device} ({error}); name its file with `device`") from None


_NONE = Extras()


def export(
    request: ExportRequest,
    jobs: Sequence[ExportJob],
    progress: Progress,
    *,
    recalibrate: bool = True,
    out: Path | None = None,
    max_drop: float | None = None,
    extras: Extras = _NONE,
) -> tuple[Path, BundleManifest]:
    """Export, by default into RUN/export/DIGEST; return the directory and what its manifest says.

    `max_drop` is how many points of its score int8 may lose, by default those of `ExportTarget`. Raises `CheckFailed`
    if a file does not agree with PyTorch.
    """
    with progress.stage("export: loading what converts and proves"):
        from nasdeploy.exporting.export import Exporter
        from nasdeploy.nn.network import compute_device
        from nasdeploy.supernet.networks import load_network
        from nasdeploy.supernet.weights import load_supernet

    run, recipe = request.run, request.recipe
    task = task_of(recipe.task)
    own = request.own
    directory = out or run.exports / request.arch.digest
    with run.reading() as kept:
        if not kept and out is None:
            raise UserError(f"{run.path}: is read-only; say with `out=DIR` where the models go")
        if own is not None:
            progress.say(f"export: the weights of {request.arch.digest} are {own.record.text(task.metric)}")
        with progress.stage("export: opening data and weights"):
            supernet = load_supernet(request.weights.path, request.space).to(compute_device())
            data = task.open(recipe.data, recipe.seed, run)
        exporter = Exporter(
            supernet=supernet,
            task=task,
            data=data,
            recalibration=recipe.recalibration if recalibrate else None,
            seed=recipe.seed,
            target=_target(request, max_drop),
            origin=ExportOrigin(
                run=str(run.path),
                recipe=recipe.to_json(),
                budget=request.budget,
                weights=request.weights.facts,
                own=None if own is None else own.record.own_weights,
            ),
            progress=progress,
            own=None if own is None else load_network(own, request.space),
        )
        manifest = exporter.export(request.arch, directory, jobs, extras)
        if kept:
            for sha256, predictions in exporter.predictions.items():
                predictions.save(predictions_file(run.path, sha256))
            run.finish("export", _facts(directory, manifest, task.metric))
        else:
            progress.say(f"export: {run.path} is read-only, and does not know of it")
    return directory, manifest


def _target(request: ExportRequest, max_drop: float | None) -> "ExportTarget":
    from nasdeploy.exporting.proof import ExportTarget
    from nasdeploy.latency.profile import reference_model

    graph = partial(reference_model, request.space, request.device)
    target = ExportTarget(request.device, request.table, reference_graph=graph)
    return target if max_drop is None else replace(target, max_drop=max_drop)


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
