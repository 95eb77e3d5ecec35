"""How models become a bundle: where they are made, what lies beside them, and the sums over all of it.

Those that passed their proof end in a bundle, whole or not at all; the others are kept aside with a report.

A model repository of NVIDIA's Triton inference server may be part of it: `triton/NAME/config.pbtxt` and
`triton/NAME/1/FILE`, in the form of Triton's documentation (`model_config.proto`), with dynamic batching. The server is
started with `tritonserver --model-repository=BUNDLE/triton`.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from nasdeploy.core.errors import CheckFailed, UserError
from nasdeploy.core.escaping import escaped
from nasdeploy.exporting.bundle.pictures import Refused
from nasdeploy.exporting.bundle.predict import MANIFEST, SAMPLE, SUMS, check_sums, files_of, sha256
from nasdeploy.exporting.bundle.readme import readme
from nasdeploy.exporting.formats import FORMATS
from nasdeploy.exporting.formats.format import ServerBackend
from nasdeploy.exporting.manifest import Artefact, BundleManifest, ExportManifest, FileFacts, TensorFacts, load_export
from nasdeploy.runtimes.runtime import LARGEST_BATCH
from nasdeploy.store.files import (
    PARTIAL,
    disk_full_named,
    locked_while_written,
    remove_partial_of,
    replacing_directory,
    writable,
    write_bytes,
    write_json,
    write_text,
)

REJECTED_MANIFEST = "manifest.rejected.json"

About = Callable[[tuple[Artefact, ...]], BundleManifest]
"""Makes the manifest of models that lie together."""


class BundleSample(Protocol):
    """An input with expected outputs, by which a bundle is tried on any machine."""

    def save(self, folder: Path) -> None:
        """Write the sample into a bundle; equal samples give equal bytes."""


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """Give a hidden directory beside `out` in which models are made, by one process at a time.

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


def install(stage: Path, out: Path, manifest: BundleManifest, sample: BundleSample, *, triton: bool = False) -> None:
    """Make of the models in `stage` that the manifest names a bundle in `out`: whole or not at all.

    It takes the place of an earlier one. `triton` adds a model repository of the server.
    """
    with replacing_directory(out) as folder:
        models = [file for made in manifest.artefacts for file in made.files]
        for file in [*models, *(made.file for made in manifest.embedded)]:
            (stage / file.name).rename(folder / file.name)
        if triton and isinstance(manifest, ExportManifest):
            write_repository(folder, manifest)
        complete(folder, manifest, sample)
        keep_hidden(out, folder)


def reject(stage: Path, out: Path, rejected: tuple[Artefact, ...], about: About) -> CheckFailed:
    """Keep models that failed under names that say so, and a report; return the error to end with."""
    kept = tuple(_kept(stage, out, artefact) for artefact in rejected)
    report = out / REJECTED_MANIFEST
    write_json(report, about(kept).model_dump(mode="json"))
    first, problems = out / kept[0].file.name, [problem for artefact in kept for problem in artefact.proof.problems]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return CheckFailed(f"{first}: {problems[0]}{more}; see {report}")


def _kept(stage: Path, out: Path, artefact: Artefact) -> Artefact:
    """Return the artefact under names that nobody takes for those of a good one: `model.rejected.onnx`."""
    files = []
    for file in artefact.files:
        stem, dot, suffix = file.name.rpartition(".")
        path = out / f"{stem}.rejected{dot}{suffix}"
        write_bytes(path, (stage / file.name).read_bytes())
        files.append(FileFacts.of(path))
    renamed = {file.name: kept.name for file, kept in zip(artefact.files, files, strict=True)}
    parts = {part: renamed[name] for part, name in artefact.parts.items()}
    return artefact.model_copy(update={"files": tuple(files), "parts": parts})


PROGRAMS, REBUILD, README, ATTRIBUTES = ("predict.py", "pictures.py"), "rebuild.py", "README.md", ".gitattributes"

_KEPT_BY_GIT = "# SHA256SUMS is of bytes: git is not to change line ends here.\n* -text\n"
"""Not covered by the sums, as nothing hidden is: copies and archives that leave it out are whole bundles too."""


def complete(folder: Path, manifest: BundleManifest, sample: BundleSample) -> None:
    """Add to the model in `folder` all else that a bundle holds; SHA256SUMS last, over every other file."""
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    sample.save(folder)
    rebuilt = any(FORMATS[made.format].rebuilds_with for made in manifest.artefacts)
    programs = [*PROGRAMS, *_examples(manifest)] if isinstance(manifest, ExportManifest) else []
    for name in [*programs, REBUILD] if rebuilt else programs:
        with as_file(files("nasdeploy.exporting.bundle") / name) as program:
            shutil.copyfile(program, folder / name)
    write_text(folder / README, readme(manifest))
    write_text(folder / ATTRIBUTES, _KEPT_BY_GIT)
    write_sums(folder)


def _examples(manifest: BundleManifest) -> list[str]:
    """The names of the programs in C++ for the formats of a bundle."""
    found = (FORMATS[made.format].example for made in manifest.artefacts)
    return list(dict.fromkeys(example.source for example in found if example is not None))


def load_bundle(folder: Path) -> BundleManifest:
    """Return the manifest of a bundle whose files are all there and as they were written.

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
    """Write SHA256SUMS in the form of `sha256sum`, which checks it with `-c`."""
    lines = (f"{sha256(folder / name)}  {name}\n" for name in files_of(folder))
    write_text(folder / SUMS, "".join(lines))


def require_replaceable(folder: Path) -> None:
    """Raise `UserError` if a bundle in place of `folder` would cost the user files that no export wrote."""
    if not folder.is_dir():
        return
    examples = {form.example.source for form in FORMATS.values() if form.example is not None}
    known = {SUMS, MANIFEST, SAMPLE, *PROGRAMS, *examples, REBUILD, README}
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
    """Return the names of sockets, pipes and devices, which have no content to be copied."""
    paths = {name: Path(folder, name) for name in names}
    return [name for name, path in paths.items() if not (path.is_symlink() or path.is_file() or path.is_dir())]


TRITON = "triton"

_LABELS = "labels.txt"


def write_repository(folder: Path, manifest: ExportManifest) -> None:
    """Write `triton/` into a bundle, with a model for each artefact that Triton can serve."""
    for artefact in manifest.artefacts:
        backend = FORMATS[artefact.format].backend
        if backend is not None:
            _write_model(folder, artefact, manifest, backend)


def model_name(manifest: ExportManifest, artefact: Artefact) -> str:
    """Return the name of a model in the repository, e.g. `nasdeploy-d610515617a3-onnx-fp32`."""
    return f"nasdeploy-{manifest.digest}-{artefact.format}-{artefact.precision}"


def _write_model(folder: Path, artefact: Artefact, manifest: ExportManifest, backend: ServerBackend) -> None:
    place = folder / TRITON / model_name(manifest, artefact)
    (place / "1").mkdir(parents=True)
    for suffix, name in backend.files.items():
        (file,) = (file for file in artefact.files if file.name.endswith(suffix))
        shutil.copyfile(folder / file.name, place / "1" / name)
    write_text(place / _LABELS, "".join(f"{escaped(label)}\n" for label in manifest.labels))
    write_text(place / "config.pbtxt", _configuration(artefact, manifest, backend))


def _configuration(artefact: Artefact, manifest: ExportManifest, backend: ServerBackend) -> str:
    on_gpu = backend.on_gpu or "cuda" in artefact.device.runtime
    inputs = [_tensor(tensor) for tensor in manifest.inputs]
    outputs = [_tensor(tensor, f'\n    label_filename: "{_LABELS}"') for tensor in manifest.outputs]
    return (
        f'name: "{model_name(manifest, artefact)}"\n'
        f"{backend.line}\n"
        f"max_batch_size: {LARGEST_BATCH}\n"
        f"input [{','.join(inputs)}\n]\n"
        f"output [{','.join(outputs)}\n]\n"
        f"dynamic_batching {{ }}\n"
        f"instance_group [\n  {{ kind: {'KIND_GPU' if on_gpu else 'KIND_CPU'} }}\n]\n"
    )


def _tensor(tensor: TensorFacts, more: str = "") -> str:
    sizes: Sequence[object] = tensor.shape[1:]  # The batch is implied by max_batch_size.
    kind = {"float32": "TYPE_FP32", "int64": "TYPE_INT64"}[tensor.dtype]
    return (
        f'\n  {{\n    name: "{tensor.name}"\n    data_type: {kind}\n'
        f"    dims: [ {', '.join(map(str, sizes))} ]{more}\n  }}"
    )
