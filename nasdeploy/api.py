"""The Python interface: what the commands do, as functions that take and give objects. `import nasdeploy as nd` has it.

Several functions take the same arguments:

- `run` is a `Run` or the directory of one; by default it is the latest in `runs/`.
- `data` are other images than the recipe names: a folder, or a PyTorch data set of pictures and labels, or several by
  part: `train`, `val` and `test`. Data sets are in no file, so each function is given them again.
- `space` is a `SearchSpace` of one's own in the place of the recipe's. It is in no file either.
- `changes` are values of the recipe's keys for this call, such as `{"train.epochs": 5}` or `["train.epochs=5"]`.
- `restart` says whether what is there already is replaced.
- `progress` says whether to write to stderr what the commands do, or is a `Progress` of one's own; by default functions
  say nothing.

Paths may be strings. Mistakes raise `UserError`, a budget that no network can meet `InfeasibleBudget`, a file that
fails its proof `CheckFailed`; all are `NasdeployError`s.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.core.space import SearchSpace
from nasdeploy.recipe import (
    AnyPath,
    Changes,
    Data,
    Recipe,
    assignments_of,
    recipe_from,
    recipe_of,
    space_of,
    start_of,
    with_objects,
)
from nasdeploy.searching.budget import Bound, asked_for
from nasdeploy.store.run import Run

if TYPE_CHECKING:
    from nasdeploy.exporting.manifest import BundleManifest
    from nasdeploy.latency.table import LatencyTable
    from nasdeploy.searching.result import SearchResult
    from nasdeploy.workflows.device_searches import DeviceSearches
    from nasdeploy.workflows.finetune import Finetuned
    from nasdeploy.workflows.runtimes import RuntimeComparison


def init(
    data: AnyPath,
    *,
    start: str | None = None,
    weights: AnyPath | None = None,
    hours: float = 1.0,
    out: AnyPath | None = None,
    progress: bool | Progress = False,
) -> Recipe:
    """Return a recipe for the folder of images `data` that trains for about `hours` on this machine.

    `start` is the pretrained network to start from, `timm:NAME` or `torchvision:NAME`, and `weights` a file with its
    weights where the library is not to fetch its own; or `run:DIR`, a trained run, whose space and weights are taken;
    or a published supernet, such as `alphanet:FILE`. Then `hours` are those of the whole way, up to the exported file.
    With `out` the recipe is also written there, with comments; an earlier file is replaced. Raises `UserError` for a
    folder that holds no images that can be learned from, and for a network that cannot be had, or read.
    """
    from nasdeploy.initial_recipe.text import first_recipe
    from nasdeploy.store.files import write_text

    begin = start_of(start, weights)
    found = first_recipe(Path(data), hours, "recipe.yaml" if out is None else fspath(out), _told(progress), begin)
    if out is not None:
        write_text(Path(out), found.text)
    return found.recipe


def train(
    recipe: Recipe | AnyPath | Mapping[str, object],
    *,
    data: Data | None = None,
    space: SearchSpace | None = None,
    run: AnyPath | None = None,
    init: AnyPath | None = None,
    changes: Changes | None = None,
    restart: bool = False,
    progress: bool | Progress = False,
) -> Run:
    """Train the supernet of a recipe and return its run, which lies in `runs/NAME` unless `run` names a directory.

    `recipe` is an object, its content, a file, or the name of a shipped one; `data`, `space` and `changes` replace what
    it says. `init` is a file of weights, or a run, to start from; the classifier of a run with the same classes is
    kept. A run that was stopped goes on; `restart` discards it. Raises `UserError` for a finished run, for one that was
    begun with another recipe, and for whatever is wrong. Started by `torchrun`, the processes share each batch, and all
    return the run.
    """
    from nasdeploy.workflows import train as workflow

    loaded = with_objects(recipe_from(recipe, changes), data, space)
    directory = workflow.default_directory(loaded) if run is None else Path(run)
    start = None if init is None else Path(init)
    trained = workflow.train(loaded, directory, _told(progress), init=start, restart=restart)
    return trained or Run.open(directory)


def import_supernet(
    kind: str,
    file: AnyPath,
    *,
    out: AnyPath,
    data: AnyPath | None = None,
    changes: Changes | None = None,
    restart: bool = False,
    progress: bool | Progress = False,
) -> Run:
    """Make a finished run in the directory `out` of a published supernet, and return it.

    `kind` is what published it: `alphanet`, `attentivenas` or `ofa`. Nothing in `file` is executed. The recipe is the
    one that such supernets were trained with; `data` and `changes` replace what it says. `data` is a folder of images
    of the classes that it learned, ImageNet's unless it was trained further, in the order of their names; without it
    the images are looked for when they are needed. Raises `UserError` for a run that is there already, unless `restart`
    replaces it, and for a file that is no such supernet.
    """
    from nasdeploy.workflows.start import ImportRequest
    from nasdeploy.workflows.start import import_supernet as workflow

    folder = None if data is None else fspath(data)
    request = ImportRequest(kind, Path(file), Path(out), folder, assignments_of(changes), restart)
    return workflow(request, _told(progress))


def profile(
    measured: Run | SearchSpace,
    device: str = "cpu",
    *,
    space: SearchSpace | None = None,
    budget_min: float | None = None,
    restart: bool = False,
    progress: bool | Progress = False,
) -> "LatencyTable":
    """Measure the blocks of a space on a device, and return its latency table, in seconds.

    `measured` is the space, or a run with it; a run whose space is a Python object needs it as `space`. `device` is a
    name in profiles/ or a file. The table is kept in profiles/tables, where searches find it. `budget_min` is the time
    in minutes that it may take. Raises `UserError` if the table is there already, unless `restart` measures it anew.
    """
    started = perf_counter()
    from nasdeploy.latency.profile import profile as measure
    from nasdeploy.latency.table import table_path
    from nasdeploy.latency.time_budget import TimeBudget
    from nasdeploy.runtimes.device import load_device

    found = space_of(measured, _recipe_of(measured, space=space)) if isinstance(measured, Run) else measured
    target = load_device(device)
    return measure(
        found,
        target,
        table_path(found, target),
        _told(progress),
        budget=None if budget_min is None else TimeBudget(60 * budget_min, started),
        restart=restart,
    )


def search(
    run: Run | AnyPath | None = None,
    *,
    data: Data | None = None,
    space: SearchSpace | None = None,
    changes: Changes | None = None,
    precisions: Sequence[str] = (),
    strict: bool = False,
    progress: bool | Progress = False,
    **budget: Bound,
) -> "SearchResult":
    """Search a trained run for the best network within a `budget`, and return what was found.

    Bounds are named as the options of `nasdeploy search`: `latency_ms=5`, `latency_ms={"cpu": 5, "pi": (None, 40)}`,
    `latency_p95_ms`, `macs_m`, `params_m`, `size_mb`, `memory_mb`; their names end in the units: milliseconds, millions
    and megabytes. Latencies may be told by what networks take on the device: `"0.5x"` what the largest or original one
    does, or `"40%"` of the range. Without any bound, the recipe's latency counts. `data` and `space` are needed again
    where they were Python objects in training. With `precisions`, such as fp32 and int8, the search chooses among these
    too. With `changes={"search.prefer": "fast"}` the fastest finalist wins that is no worse than the best, as far as
    can be told. With `strict` a latency table that was measured under other conditions is refused. Raises
    `InfeasibleBudget` with the range that can be reached, and `UserError` in those processes of `torchrun` that only
    help.
    """
    from nasdeploy.workflows.request import parse_precisions, request_searches
    from nasdeploy.workflows.search import search_all

    found, told = _run(run), _told(progress)
    recipe = _recipe_of(found, changes, data, space)
    among = parse_precisions(",".join(precisions)) if precisions else []
    result = search_all(request_searches(found, recipe, asked_for(budget), among, strict, told), told)
    if result is None:
        raise UserError(f"{found.path}: this process helped with the search; the first process has its result")
    return result


def search_devices(
    devices: Sequence[str],
    run: Run | AnyPath | None = None,
    *,
    data: Data | None = None,
    space: SearchSpace | None = None,
    changes: Changes | None = None,
    strict: bool = False,
    progress: bool | Progress = False,
    **budget: Bound,
) -> "DeviceSearches":
    """Search a trained run for each of several `devices`, and return the results with the one of the best winner.

    The `budget` is that of `search`, and the same for all devices, `latency_ms` at least; `40%` of the range, and
    `0.5x` what the largest network takes, are those of each device. The best winner is the run's result from then on.
    With `strict` a latency table that was measured under other conditions is refused. Raises `InfeasibleBudget` if no
    network meets the budget on any of them, and `UserError` for a device that is named twice or has no table.
    """
    from nasdeploy.workflows.device_searches import request_by_device
    from nasdeploy.workflows.device_searches import search_devices as workflow

    found, told = _run(run), _told(progress)
    recipes = [
        _recipe_of(found, [*assignments_of(changes), f"device={json.dumps(name)}"], data, space) for name in devices
    ]
    return workflow(request_by_device(found, recipes, asked_for(budget), strict, told), told)


def finetune(
    run: Run | AnyPath | None = None,
    arch: Arch | str | None = None,
    *,
    data: Data | None = None,
    space: SearchSpace | None = None,
    changes: Changes | None = None,
    restart: bool = False,
    progress: bool | Progress = False,
) -> "Finetuned":
    """Train a network of a run further alone, and return what came of it.

    `arch` is an architecture, its digest or name, or its JSON; by default the winner of the run's last search. It
    begins with the weights that it inherits, learns from the labels and from the run's original, if there is one, and
    is exported from then on, unless it does worse than before on the samples held out for the search. The recipe says
    how, for example in `changes={"finetune.epochs": 8}`. One that was stopped goes on; `restart` discards it. Raises
    `UserError` for one that is finished.
    """
    from nasdeploy.workflows.finetune import finetune as train_on
    from nasdeploy.workflows.finetune import request_finetune

    found, told = _run(run), _told(progress)
    request = request_finetune(found, _recipe_of(found, changes, data, space), _arch_text(arch), told)
    return train_on(request, told, restart=restart)


@dataclass(frozen=True)
class Export:
    """A directory of exported models, and what its manifest says of them."""

    directory: Path
    """The directory that holds the files."""
    manifest: "BundleManifest"
    """What is known of the network, and of each file."""

    @property
    def models(self) -> tuple[Path, ...]:
        """The file of each model, in the order of the formats that were asked for."""
        return tuple(self.directory / artefact.file.name for artefact in self.manifest.artefacts)


def export(
    run: Run | AnyPath | None = None,
    arch: Arch | str | None = None,
    *,
    formats: Sequence[str] = ("onnx",),
    precision: str | None = None,
    device: str | None = None,
    out: AnyPath | None = None,
    data: Data | None = None,
    space: SearchSpace | None = None,
    changes: Changes | None = None,
    recalibrate: bool = True,
    finetune_epochs: int | None = None,
    max_drop: float = 0.5,
    progress: bool | Progress = False,
) -> Export:
    """Export a network of a run, each model proved against PyTorch, and return the directory with its manifest.

    `arch` is an architecture, its digest or name, or its JSON; by default the winner of the run's last search.
    `formats` are keys of `nasdeploy.exporting.formats.FORMATS`, `precision` is that of the files, by default the
    device's, and `device` the one to measure on, by default the search's. The files go to `out`, by default
    RUN/export/DIGEST. Without `recalibrate` the batch-norm statistics stay those of the weights. `max_drop` is what
    int8 may lose of the score, in points. With `finetune_epochs` the network is trained for so many epochs alone first,
    as by `finetune`, unless it was. Raises `CheckFailed` where a model does not agree with PyTorch, and `UserError` for
    whatever cannot be exported.
    """
    from nasdeploy.exporting.formats import plan_jobs
    from nasdeploy.workflows.export import export as write
    from nasdeploy.workflows.export import request_export

    found, told = _run(run), _told(progress)
    recipe = _recipe_of(found, changes, data, space)
    if finetune_epochs is not None:
        recipe = recipe.changed([f"finetune.epochs={finetune_epochs}"])
    request = request_export(found, recipe, _arch_text(arch), device, told)
    jobs = plan_jobs(list(formats), request.device, precision, ())
    if finetune_epochs is not None:
        from nasdeploy.workflows.finetune import FinetuneRequest, ensure_finetuned

        ensure_finetuned(FinetuneRequest.of(request), told)
    directory, manifest = write(
        request, jobs, told, recalibrate=recalibrate, out=None if out is None else Path(out), max_drop=max_drop
    )
    return Export(directory, manifest)


def compare_runtimes(
    network: AnyPath | Arch,
    devices: Sequence[str] = (),
    *,
    space: SearchSpace | None = None,
    run: Run | AnyPath | None = None,
    plot: AnyPath | None = None,
    progress: bool | Progress = False,
) -> "RuntimeComparison":
    """Measure one network in several runtimes, compare its outputs with PyTorch's, and return both for each.

    `network` is the directory of a bundle, whose files are tried on its sample, or an architecture of `space`, by
    default that of a run, with random weights and inputs. `devices` are names or files, by default all that come with
    nasdeploy and can run here. What a runtime refuses is a result with its reason, and outputs that are wrong are one
    with the problem: `require_agreement()` raises where there is any. `plot` is the PNG that the latencies in
    milliseconds are drawn into. Raises `UserError` for a network or a device that is not there.
    """
    from nasdeploy.store.files import require_writable
    from nasdeploy.workflows.compared_network import compared_network
    from nasdeploy.workflows.runtimes import chosen_devices, compare

    picture = None if plot is None else Path(plot)
    if picture is not None:
        if picture.suffix.lower() != ".png":
            raise UserError(f"`plot={picture}`: the picture is a PNG; give a name that ends in .png")
        require_writable(picture)
    targets = chosen_devices(devices)
    of = Run.open(Path(run)) if isinstance(run, str | PathLike) else run
    asked = network if isinstance(network, str | Arch) else Path(network)
    found = compare(compared_network(asked, space, of), targets, _told(progress))
    if picture is not None and found.measured:
        found.draw(picture)
    return found


def pack(run: Run | AnyPath | None = None, out: AnyPath | None = None, *, progress: bool | Progress = False) -> Path:
    """Write a trained run into one file for another machine, and return its path.

    It is NAME.nasdeploy in the working directory unless `out` names another. Data, checkpoints and exports are not in
    it; latency tables that the run used are. Raises `UserError` for a run that is not trained, and for a file that is
    there already.
    """
    from nasdeploy.workflows.pack import pack as write

    return write(_run(run), None if out is None else Path(out), _told(progress)).path


def unpack(file: AnyPath, out: AnyPath | None = None, *, progress: bool | Progress = False) -> Run:
    """Make the run in a `file` that `pack` wrote a run here, in runs/NAME unless `out` names a directory; return it.

    Its images may lie elsewhere here: `search` and `export` take the folder as `data`. Raises `UserError`, and leaves
    nothing behind, for a file that is damaged, of another version or no such file.
    """
    from nasdeploy.workflows.unpack import unpack as read

    return read(Path(file), None if out is None else Path(out), _told(progress)).run


def _arch_text(arch: Arch | str | None) -> str | None:
    """Return an architecture as the workflows take it."""
    return json.dumps(arch.to_json()) if isinstance(arch, Arch) else arch


def _told(progress: bool | Progress) -> Progress:
    return progress if isinstance(progress, Progress) else Progress(quiet=not progress)


def _run(run: Run | AnyPath | None) -> Run:
    if isinstance(run, Run):
        return run
    return Run.latest() if run is None else Run.open(Path(run))


def _recipe_of(
    run: Run, changes: Changes | None = None, data: Data | None = None, space: SearchSpace | None = None
) -> Recipe:
    if isinstance(data, str | PathLike):
        return with_objects(recipe_of(run, assignments_of(changes), fspath(data)), None, space)
    return with_objects(recipe_of(run, assignments_of(changes)), data, space)
