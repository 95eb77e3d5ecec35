"""Packing a run into one file: all that another machine needs to go on with it, but for the data.

That is what the run learned (weights, and networks with weights of their own), what was found out about it (searches
and their evaluations, metrics, the latency tables that it used), and its recipe. Checkpoints stay, which are of use to
a training that goes on, and so do exports, which are handed on as they are. Torch is imported only to turn the weights
of a run of an earlier version into safetensors.
"""

import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasdeploy.core.errors import UserError
from nasdeploy.core.escaping import as_json
from nasdeploy.core.progress import Progress
from nasdeploy.latency.table import TABLES, LatencyTable
from nasdeploy.recipe import recipe_of
from nasdeploy.runtimes.device import load_device
from nasdeploy.searching.result import load_result
from nasdeploy.store.checkpoints import supernet_facts, supernet_file, trained_weights
from nasdeploy.store.files import beside, disk_full_named, locked_while_written, remove_partial_of, require_writable
from nasdeploy.store.networks import FINETUNED, RECORD, WEIGHTS, kept_networks
from nasdeploy.store.packs import Listing, write_pack
from nasdeploy.store.run import Run
from nasdeploy.workflows.searches import results

SUFFIX = ".nasdeploy"
"""How files of packed runs end, unless another name is given."""
RUN, PACKED_TABLES = "run", "tables"
"""The folders in a pack of what lay in the run, and of the latency tables."""
_AS_THEY_ARE = (
    *("data.npz", "metrics.jsonl", "search.json", "losses.json", "predictor.npz", "evaluate.json"),
    *("pareto.png", "cuts.png", "evaluate.png"),
)


@dataclass(frozen=True)
class Packed:
    """A run in one file."""

    path: Path
    listing: Listing

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of the latency tables in it."""
        folder = f"{PACKED_TABLES}/"
        return tuple(each.path.removeprefix(folder) for each in self.listing.files if each.path.startswith(folder))

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        files = [{"path": each.path, "bytes": each.bytes} for each in self.listing.files]
        return {"pack": str(self.path), "name": self.listing.name, "bytes": self.path.stat().st_size, "files": files}


def pack(run: Run, out: Path | None, progress: Progress) -> Packed:
    """Write a trained run into one file, by default NAME.nasdeploy in the working directory.

    Raises `UserError` if its training is not finished, if something of it is damaged, and if the file is there already.
    """
    path = Path(f"{run.manifest.name}{SUFFIX}") if out is None else out
    if path.exists():
        raise UserError(f"{path}: exists already; name another file with `out=FILE`, or delete it")
    require_writable(path)
    with locked_while_written(path), run.reading():
        remove_partial_of(path)
        with beside(path.absolute(), path) as inside, disk_full_named(path):
            inside.mkdir()
            files = {**_files_of(run, inside), **_tables_of(run)}
            progress.say(f"pack: {run.path}, {len(files)} files, {_megabytes(files.values()):.3g} MB")
            with progress.stage("pack: writing"):
                listing = write_pack(path, run.manifest.name, files)
    return Packed(path, listing)


def _megabytes(files: Iterable[Path]) -> float:
    return sum(file.stat().st_size for file in files) / 1e6


def _files_of(run: Run, workspace: Path) -> dict[str, Path]:
    """Return what is packed of a run, by its place in the pack; what has to be written anew is in a workspace."""
    found = {name: run.path / name for name in _AS_THEY_ARE}
    found |= {f"searches/{path.name}": path for path in sorted((run.path / "searches").glob("[0-9]*.json"))}
    found |= {path.name: _snapshot(path, workspace) for path in sorted(run.path.glob("search*.sqlite"))}
    found |= _networks_of(run)
    found |= _weights_of(run, workspace)
    return {f"{RUN}/{place}": path for place, path in sorted(found.items()) if path.is_file()}


def _networks_of(run: Run) -> dict[str, Path]:
    """Return the networks of a run with weights of their own, and what came of training networks alone."""
    found: dict[str, Path] = {}
    for kept in (*kept_networks(run, "original"), *kept_networks(run, "finetuned")):
        kept.require_whole()
        found |= {f"networks/{kept.path.name}/{name}": kept.path / name for name in (RECORD, WEIGHTS)}
    for record in sorted(run.path.glob(f"finetune/*/{FINETUNED}")):
        tuned = record.parent
        names = (FINETUNED, "manifest.json", "metrics.jsonl")
        found |= {f"finetune/{tuned.name}/{name}": tuned / name for name in names}
    return found


def _weights_of(run: Run, workspace: Path) -> dict[str, Path]:
    """Return the weights of a run as safetensors, and the manifest that knows them.

    Exports are not packed, and so the manifest knows of none.
    """
    weights = trained_weights(run)
    facts, file = run.facts("train"), weights.path
    if file != supernet_file(run):
        from nasdeploy.supernet.weights import read, write_alone

        content, file = read(weights.path), workspace / supernet_file(run).name
        write_alone(file, content["space"], content["weights"], weights.facts.epoch)
        # Searches, evaluations and kept networks know them by the sum of the checkpoint.
        facts = {**facts, **supernet_facts(file, weights.facts.epoch, weights.facts)}
    manifest = run.manifest.model_dump(mode="json")
    manifest["finished"].pop("export", None)
    manifest["finished"]["train"] = facts
    (workspace / "manifest.json").write_text(json.dumps(as_json(manifest), indent=2) + "\n", encoding="utf-8")
    return {"manifest.json": workspace / "manifest.json", supernet_file(run).name: file}


def _snapshot(database: Path, workspace: Path) -> Path:
    """Return a copy of a database that has everything in one file; a killed search leaves a part of it beside it."""
    copy = workspace / database.name
    try:
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
            target.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.OperationalError as error:
        raise UserError(f"{database}: cannot be copied ({error}); check the disk, and that no search runs") from None
    except sqlite3.DatabaseError as error:
        raise UserError(f"{database}: damaged ({error}); restore it, or move it away") from None
    return copy


def _tables_of(run: Run) -> dict[str, Path]:
    """Return the latency tables of the run's space, of the devices that it is for or that its searches were for."""
    devices = set(_devices_of(run))
    files = sorted(TABLES.glob(f"*-{run.manifest.space}-{run.manifest.output_size}.json"))
    tables = {path: LatencyTable.load(path).conditions.device.name for path in files}
    return {f"{PACKED_TABLES}/{path.name}": path for path, device in tables.items() if device in devices}


def _devices_of(run: Run) -> Iterator[str]:
    with suppress(UserError):
        # A file of a device may be gone, or lie elsewhere.
        yield load_device(recipe_of(run).device).name
    for result in results(run):
        yield from result.devices
    if run.search_result.exists():
        yield from load_result(run.search_result).devices
