"""A model repository of NVIDIA's Triton inference server, as part of a bundle. Torch-free.

`triton/NAME/config.pbtxt` and `triton/NAME/1/FILE`, in the form of Triton's documentation (`model_config.proto`), with
dynamic batching. The server is started with `tritonserver --model-repository=BUNDLE/triton`.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from nasdeploy.core.escaping import escaped
from nasdeploy.exporting.formats import FORMATS
from nasdeploy.exporting.formats.format import ServerBackend
from nasdeploy.exporting.manifest import Artefact, ExportManifest, TensorFacts
from nasdeploy.runtimes.runtime import LARGEST_BATCH
from nasdeploy.store.files import write_text

FOLDER = "triton"

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
    place = folder / FOLDER / model_name(manifest, artefact)
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
