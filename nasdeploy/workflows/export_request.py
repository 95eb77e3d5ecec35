"""What an export is asked for: the architecture that a user means, or a search's whole front, checked before the work.

Torch-free.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.table import LatencyTable, find_table, table_path
from nasdeploy.recipe import Recipe, space_of
from nasdeploy.runtimes.device import Device, load_device
from nasdeploy.searching.result import SearchResult, load_result
from nasdeploy.spaces.resolve import resolve_arch
from nasdeploy.store.checkpoints import Weights, trained_weights
from nasdeploy.store.evaluations import known_architectures
from nasdeploy.store.run import Run


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


def request_export(run: Run, recipe: Recipe, text: str | None, device: str | None, progress: Progress) -> ExportRequest:
    """Return what is asked for by `--arch` and `--device`; without them the search's winner on the search's device.

    In a run that trained one network alone it is that one. `recipe` is the run's, with what was changed for this call.

    Raises `UserError` if there is no such architecture or device, no search result, or no trained supernet.
    """
    space = space_of(run, recipe)
    weights = trained_weights(run)
    budget: dict[str, float] = {}
    if text is not None:
        arch = resolve_arch(text, space, known_architectures(run.search_database, space))
        target = load_device(device or recipe.device)
    elif recipe.train.sampling.kind == "alone":
        arch = space.arch(recipe.train.sampling.arch)
        progress.say(f"export: {arch.digest}, the network that was trained alone")
        target = load_device(device or recipe.device)
    else:
        result = load_result(run.search_result)
        arch = _winner(result, space, weights, run.search_result)
        progress.say(f"export: {arch.digest}, the winner of the search in {run.search_result}")
        target = _device(device, recipe, result)
        budget = result.budget.upper(target.name)
    table = find_table(space, target) if table_path(space, target).exists() else None
    return ExportRequest(run, recipe, space, arch, target, table, budget, weights)


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
