"""Everything beside the model that makes a bundle: manifest, sample, program, text, and the sums over all of it."""

import shutil
from importlib.resources import as_file, files
from pathlib import Path

from nasdeploy.core.errors import UserError
from nasdeploy.exporting.bundle.pictures import Refused
from nasdeploy.exporting.bundle.predict import MANIFEST, SAMPLE, SUMS, check_sums, files_of, sha256
from nasdeploy.exporting.bundle.readme import readme
from nasdeploy.exporting.bundle.rebuild import MODULES
from nasdeploy.exporting.bundle.sample import Sample
from nasdeploy.exporting.manifest import ExportManifest, load_export
from nasdeploy.store.files import write_json, write_text

PROGRAMS, REBUILD, README, ATTRIBUTES = ("predict.py", "pictures.py"), "rebuild.py", "README.md", ".gitattributes"

_KEPT_BY_GIT = "# SHA256SUMS is of bytes: git is not to change line ends here.\n* -text\n"
"""Not covered by the sums, as nothing hidden is: copies and archives that leave it out are whole bundles too."""


def complete(folder: Path, manifest: ExportManifest, sample: Sample) -> None:
    """Add to the model in `folder` all else that a bundle holds; SHA256SUMS last, over every other file."""
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    sample.save(folder)
    tied = any(made.format in MODULES for made in manifest.artefacts)
    for name in (*PROGRAMS, REBUILD) if tied else PROGRAMS:
        with as_file(files("nasdeploy.exporting.bundle") / name) as program:
            shutil.copyfile(program, folder / name)
    write_text(folder / README, readme(manifest))
    write_text(folder / ATTRIBUTES, _KEPT_BY_GIT)
    write_sums(folder)


def load_bundle(folder: Path) -> ExportManifest:
    """The manifest of a bundle whose files are all there and as they were written.

    Raises `UserError` if one is missing, damaged, swapped or added, or if a model was rejected.
    """
    if not (folder / MANIFEST).is_file():
        return load_export(folder)
    try:
        check_sums(folder)
    except Refused as refusal:
        raise UserError(str(refusal)) from None
    return load_export(folder)


def write_sums(folder: Path) -> None:
    """SHA256SUMS in the form of `sha256sum`, which checks it with `-c`."""
    lines = (f"{sha256(folder / name)}  {name}\n" for name in files_of(folder))
    write_text(folder / SUMS, "".join(lines))


def require_replaceable(folder: Path) -> None:
    """Raise `UserError` if a bundle in place of `folder` would cost the user files that no export wrote."""
    if not folder.is_dir():
        return
    known = {SUMS, MANIFEST, SAMPLE, *PROGRAMS, REBUILD, README}
    try:
        known |= set(check_sums(folder))
    except Refused:
        # Damaged, or of a version without sums: then only what every bundle holds is known to be an export's.
        known |= {path.name for path in folder.glob("model.*")}
    foreign = [name for name in files_of(folder) if name not in known]
    if foreign:
        raise UserError(
            f"{folder}: holds {foreign[0]}, which no export wrote and a new one would remove; "
            "move it, or choose another directory"
        )


def keep_hidden(earlier: Path, folder: Path) -> None:
    """Copy what is hidden in an earlier bundle, as git's history is, into the one in `folder` that takes its place."""
    for path in earlier.glob(".*"):
        if path.is_symlink() or path.is_file():
            shutil.copy2(path, folder / path.name, follow_symlinks=False)
        elif path.is_dir():
            shutil.copytree(path, folder / path.name, symlinks=True, ignore=_sockets)


def _sockets(folder: str, names: list[str]) -> list[str]:
    """Those, pipes and devices, which have no content to be copied."""
    paths = {name: Path(folder, name) for name in names}
    return [name for name, path in paths.items() if not (path.is_symlink() or path.is_file() or path.is_dir())]
