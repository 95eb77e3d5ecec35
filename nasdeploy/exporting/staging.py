"""Where models end: those that passed in a bundle, the others aside with a report."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from nasdeploy.core.errors import CheckFailed
from nasdeploy.exporting.bundle.sample import Sample
from nasdeploy.exporting.bundle.triton import write_repository
from nasdeploy.exporting.bundle.write import complete, keep_hidden, require_replaceable
from nasdeploy.exporting.manifest import Artefact, Embedded, ExportManifest, FileFacts
from nasdeploy.store.directories import replacing_directory
from nasdeploy.store.files import (
    PARTIAL,
    disk_full_named,
    locked_while_written,
    remove_partial_of,
    writable,
    write_bytes,
    write_json,
)

REJECTED_MANIFEST = "manifest.rejected.json"

About = Callable[[tuple[Artefact, ...]], ExportManifest]
"""Makes the manifest of models that lie together."""


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A hidden directory beside `out` in which models are made, by one process at a time.

    Raises `UserError` if `out` cannot be replaced, or another process exports there.
    """
    place = Path(os.path.realpath(out))
    with locked_while_written(out):
        require_replaceable(out)
        with writable(out):
            remove_partial_of(place)
            workspace = TemporaryDirectory(prefix=f".{place.name}.", suffix=PARTIAL, dir=place.parent)
        with workspace as folder, disk_full_named(out):
            yield Path(folder)


def install(
    stage: Path,
    out: Path,
    passed: tuple[Artefact, ...],
    about: About,
    sample: Sample,
    embedded: tuple[Embedded, ...] = (),
    triton: bool = False,
) -> ExportManifest:
    """Make of the models in `stage` that passed a bundle in `out`, in place of an earlier one: whole or not at all."""
    manifest = about(passed).model_copy(update={"embedded": embedded})
    with replacing_directory(out) as folder:
        for file in [file for made in passed for file in made.files] + [made.file for made in embedded]:
            (stage / file.name).rename(folder / file.name)
        if triton:
            write_repository(folder, manifest)
        complete(folder, manifest, sample)
        keep_hidden(out, folder)
    return manifest


def reject(stage: Path, out: Path, rejected: tuple[Artefact, ...], about: About) -> CheckFailed:
    """Keep models that failed under names that say so, and a report; the error to end with."""
    kept = tuple(_kept(stage, out, artefact) for artefact in rejected)
    report = out / REJECTED_MANIFEST
    write_json(report, about(kept).model_dump(mode="json"))
    first, problems = out / kept[0].file.name, [problem for artefact in kept for problem in artefact.proof.problems]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return CheckFailed(f"{first}: {problems[0]}{more}; see {report}")


def _kept(stage: Path, out: Path, artefact: Artefact) -> Artefact:
    """The artefact under names that nobody takes for those of a good one: `model.rejected.onnx`."""
    files = []
    for file in artefact.files:
        stem, dot, suffix = file.name.rpartition(".")
        path = out / f"{stem}.rejected{dot}{suffix}"
        write_bytes(path, (stage / file.name).read_bytes())
        files.append(FileFacts.of(path))
    return artefact.model_copy(update={"files": tuple(files)})
