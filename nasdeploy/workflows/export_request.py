"""What an export is asked for, and the architecture that a user means, checked before the work. Torch-free."""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.core.registry import suggestion
from nasdeploy.core.space import SearchSpace
from nasdeploy.latency.files import find_table, table_path
from nasdeploy.latency.table import LatencyTable
from nasdeploy.recipe import Recipe, space_of
from nasdeploy.runtimes.device import Device, load_device
from nasdeploy.searching.result import SearchResult, load_result
from nasdeploy.store.checkpoints import Weights, trained_weights
from nasdeploy.store.evaluations import known_architectures
from nasdeploy.store.files import read_json
from nasdeploy.store.run import Run

_DIGEST = re.compile(r"[0-9a-f]{4,12}")


def resolve_arch(text: str, space: SearchSpace, known: Iterable[Arch], option: str = "--arch") -> Arch:
    """The architecture of `space` that `text` means: a name (or `smallest`, `largest`), a JSON file or JSON.

    A digest, or its beginning, is looked for among the named and the `known` ones. `option` is named in errors.

    Raises `UserError` for what is not found, not unique, no JSON, or outside the space.
    """
    if text.lstrip().startswith("{"):
        try:
            return space.arch(json.loads(text))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{option}: not valid JSON ({error}); check quotes and brackets") from None
    names = {"smallest": space.smallest(), "largest": space.largest(), **space.named}
    if text in names:
        return names[text]
    if text.endswith(".json") or os.path.isfile(text):  # Unlike Path.is_file also for what can be no path.
        return _in_file(Path(text), space)
    candidates = {*names.values(), *known}
    found = [arch for arch in candidates if arch.digest.startswith(text)]
    if not _DIGEST.fullmatch(text) or not found:
        raise _unknown(option, text, names, len(candidates))
    if len(found) > 1:
        digests = ", ".join(sorted(arch.digest for arch in found)[:3])
        raise UserError(f"{option} {text}: the beginning of {len(found)} digests ({digests}, ...); give more digits")
    return found[0]


def _in_file(path: Path, space: SearchSpace) -> Arch:
    content = read_json(path)
    try:
        return space.arch(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _unknown(option: str, text: str, names: Iterable[str], candidates: int) -> UserError:
    return UserError(
        f'{option} {text}: not found; give a JSON file, JSON such as {{"resolution": ...}}, the digest (4 digits or '
        f"more) of one of {candidates} known networks, or a name{suggestion(text, names)}"
    )


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
    """What is asked for by `--arch` and `--device`; without them the search's winner on the search's device.

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


def _winner(result: SearchResult, space: SearchSpace, weights: Weights, path: Path) -> Arch:
    """The search's winner; raises `UserError` if the result in `path` is of another space or other weights."""
    if result.space != space.digest:
        raise UserError(f"{path}: of another search space ({result.space}, not {space.digest}); search again")
    if result.weights not in (None, weights.facts):
        raise UserError(
            f"{path}: searched on other weights ({result.weights}) than {weights.path} holds ({weights.facts}); search "
            "again with 'nasdeploy search', or name a network with --arch"
        )
    try:
        return space.arch(result.winner.arch)
    except UserError as error:
        raise UserError(f"{path}: damaged ({error}); search again") from None


def _device(given: str | None, recipe: Recipe, result: SearchResult) -> Device:
    """The device given; else the search's, which is known by name only; else the recipe's."""
    if given is not None:
        return load_device(given)
    of_recipe = load_device(recipe.device)
    if result.device in (None, of_recipe.name):
        return of_recipe
    try:
        return load_device(str(result.device))
    except UserError as error:
        raise UserError(f"the search was for device {result.device} ({error}); name its file with --device") from None
