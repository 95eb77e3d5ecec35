"""The manifest beside an exported model: what it is, what it takes, how it was made and proved. Torch-free."""

from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from nasdeploy.data.preprocessing import Preprocessing
from nasdeploy.data.settings import AugmentSettings
from nasdeploy.errors import UserError
from nasdeploy.export.figures import Count, Proof
from nasdeploy.latency.device import Fingerprint
from nasdeploy.plan import Plan
from nasdeploy.runtimes.device import Device
from nasdeploy.settings import Settings
from nasdeploy.store.records import read_record

MANIFEST = "manifest.json"

OwnStatistics = Literal["own statistics"]
OWN_STATISTICS: OwnStatistics = "own statistics"
"""Said of a model whose batch-norm statistics are those that came with its weights."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]


class FileFacts(Settings):
    """A file that lies beside the manifest."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: Count

    @classmethod
    def of(cls, path: Path) -> "FileFacts":
        """Of a file as it is on disk now."""
        content = path.read_bytes()
        return cls(name=path.name, sha256=sha256(content).hexdigest(), bytes=len(content))


class TensorFacts(Settings):
    """An input or output of the model; `batch` stands for any number."""

    name: str
    dtype: Literal["float32"] = "float32"
    shape: tuple[Count | Literal["batch"], ...]


class SpaceFacts(Settings):
    """The search space that the architecture is of."""

    name: str
    digest: Digest


class Recalibration(Settings):
    """The training images that the batch-norm statistics were recalibrated on."""

    batch_size: Count
    batches: Count
    augment: AugmentSettings
    seed: int


class Origin(Settings):
    """The run that the weights are from."""

    run: str
    """Its directory."""
    recipe: dict[str, Any]
    budget: dict[str, float]
    """What the search kept to, e.g. `{"latency_ms": 2.5}`; empty for an architecture that was named by the user."""


class ExportManifest(Settings):
    """Everything that whoever deploys the model has to know."""

    schema_version: Literal[1] = 1
    created: str
    format: str
    file: FileFacts
    arch: dict[str, Any]
    digest: Digest
    space: SpaceFacts
    macs: Count
    """Multiply-accumulate operations for one image."""
    params: Count
    inputs: tuple[TensorFacts, ...] = Field(min_length=1)
    outputs: tuple[TensorFacts, ...] = Field(min_length=1)
    preprocessing: Preprocessing
    labels: tuple[str, ...] = Field(min_length=2)
    """Class names in the order of the logits."""
    recalibration: Recalibration | OwnStatistics
    proof: Proof
    device: Device
    fingerprint: Fingerprint
    """Of the machine that the latency was measured on."""
    origin: Origin
    versions: dict[str, str]

    @model_validator(mode="after")
    def _consistent(self) -> "ExportManifest":
        if self.outputs[0].shape != ("batch", len(self.labels)):
            raise ValueError(f"{len(self.labels)} labels for an output of shape {list(self.outputs[0].shape)}")
        side = self.preprocessing.resolution
        if self.inputs[0].shape != ("batch", 3, side, side):
            raise ValueError(f"preprocessing to {side} x {side} for an input of shape {list(self.inputs[0].shape)}")
        return self


def load_export(directory: Path) -> ExportManifest:
    """The manifest of an exported model, after making sure that the model's file is the one that it describes.

    Raises `UserError` if either is missing, damaged or edited, or if the model was rejected.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise UserError(f"{directory}: no exported model there (no {MANIFEST}); make one with 'nasdeploy export'")
    manifest = read_record(ExportManifest, path, "export again")
    if manifest.proof.problems:
        raise UserError(f"{path}: of a model that was rejected ({manifest.proof.problems[0]}); export again")
    _verify(directory / manifest.file.name, manifest.file)
    return manifest


def _verify(path: Path, expected: FileFacts) -> None:
    """Raise `UserError` unless the file has the manifest's size and checksum."""
    try:
        found = FileFacts.of(path) if path.stat().st_size == expected.bytes else None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); export again") from None
    if found != expected:
        raise UserError(f"{path}: damaged, or of another export than {MANIFEST} beside it; export again")


def interface(plan: Plan) -> tuple[tuple[TensorFacts, ...], tuple[TensorFacts, ...]]:
    """Inputs and outputs that the model of a plan has to have."""
    inputs = tuple(TensorFacts(name=name, shape=("batch", *shape)) for name, shape in plan.inputs)
    steps = {step.name: step for step in plan}
    outputs = tuple(TensorFacts(name="logits", shape=("batch", *steps[name].block.output)) for name in plan.outputs)
    return inputs, outputs
