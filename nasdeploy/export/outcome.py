"""Where models end: those that passed in the export's directory with their manifest, the others aside with a report."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory

from nasdeploy.errors import CheckFailed, UserError
from nasdeploy.export.manifest import MANIFEST, Artefact, ExportManifest, FileFacts
from nasdeploy.store.files import PARTIAL, disk_full_named, writable, write_bytes, write_json
from nasdeploy.store.records import read_record

REJECTED_MANIFEST = "manifest.rejected.json"
_STAGE = ".export."

About = Callable[[tuple[Artefact, ...]], ExportManifest]
"""Makes the manifest of models that lie together."""


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A hidden directory in `out` in which models are made; raises `UserError` if `out` cannot be written."""
    with writable(out):
        out.mkdir(parents=True, exist_ok=True)
        for leftover in out.glob(f"{_STAGE}*{PARTIAL}"):
            rmtree(leftover, ignore_errors=True)
        workspace = TemporaryDirectory(prefix=_STAGE, suffix=PARTIAL, dir=out)
    with workspace as folder, disk_full_named(out):
        yield Path(folder)


def install(stage: Path, out: Path, passed: tuple[Artefact, ...], about: About) -> ExportManifest:
    """Move models that passed from `stage` to `out`, in place of those of an earlier export, and describe them."""
    manifest = about(passed)
    names = {file.name for artefact in passed for file in artefact.files}
    leftovers = (_listed(out / MANIFEST) | _listed(out / REJECTED_MANIFEST)) - names
    for name in sorted(names):
        write_bytes(out / name, (stage / name).read_bytes())
    # Last: models without their own manifest beside them are not taken for a finished export.
    write_json(out / MANIFEST, manifest.model_dump(mode="json"))
    for name in (*leftovers, REJECTED_MANIFEST):
        (out / name).unlink(missing_ok=True)
    return manifest


def _listed(path: Path) -> set[str]:
    """Names of the models' files in a manifest that may be missing, damaged or of another version."""
    if not path.is_file():
        return set()
    try:
        manifest = read_record(ExportManifest, path, "export again")
    except UserError:
        return set()
    return {file.name for artefact in manifest.artefacts for file in artefact.files}


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
