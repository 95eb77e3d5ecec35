"""The manifest beside an exported model: what it is, what it takes, how it was made and proved. Torch-free."""

from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import DType, Part, TensorType
from nasdeploy.core.settings import Settings
from nasdeploy.core.space import NETWORK
from nasdeploy.data.settings import AugmentSettings, Preprocessing
from nasdeploy.exporting.record import Proof, without
from nasdeploy.latency.machine import Fingerprint
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Precision
from nasdeploy.store.checkpoints import WeightsFacts
from nasdeploy.store.networks import OwnWeights
from nasdeploy.store.records import DataFacts, parse_record, read_object
from nasdeploy.store.run import ClassName
from nasdeploy.supernet.settings import Average
from nasdeploy.tasks.classification import Classification
from nasdeploy.tasks.file_scores import Count

MANIFEST = "manifest.json"

OwnStatistics = Literal["own statistics"]
OWN_STATISTICS: OwnStatistics = "own statistics"
"""Said of a model whose batch-norm statistics are those that came with its weights."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]


class FileFacts(Settings):
    """A file that lies beside the manifest."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """The name of the file."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """The SHA-256 of its content."""
    bytes: Count
    """The size in bytes."""

    @classmethod
    def of(cls, path: Path) -> "FileFacts":
        """Return the facts of the file `path` as it is on disk now."""
        content = path.read_bytes()
        return cls(name=path.name, sha256=sha256(content).hexdigest(), bytes=len(content))


class TensorFacts(Settings):
    """An input or output of the model; `batch` stands for any number."""

    name: str
    """The name of the tensor in the file."""
    dtype: DType = "float32"
    """The type of its numbers."""
    shape: tuple[Count | Literal["batch"], ...]
    """The sizes of its axes; `batch` stands for any number."""


class PartFacts(Settings):
    """A part of a network, which has a file of its own."""

    name: str
    """The name of the part."""
    runs: Count = 1
    """How often it is called for one sample."""
    inputs: tuple[TensorFacts, ...] = Field(min_length=1)
    """The inputs of its file."""
    outputs: tuple[TensorFacts, ...] = Field(min_length=1)
    """The outputs of its file."""


class SpaceFacts(Settings):
    """The search space that the architecture is of."""

    name: str
    """The name of the space."""
    digest: Digest
    """The digest of the space's choices, slots and blocks."""


class Recalibration(Settings):
    """The training images that the batch-norm statistics were recalibrated on."""

    batch_size: Count
    """The images of a batch."""
    batches: Count
    """The number of batches."""
    augment: AugmentSettings
    """The random changes to these images."""
    seed: int
    """The seed by which images were drawn and changed."""
    unreadable: Annotated[int, Field(ge=0)] = 0
    """Images that were drawn and left out, because they cannot be read."""
    average: Average = "cumulative"
    """How statistics of batches became those of the network; see `recalibration.average` of a recipe."""

    @model_serializer(mode="wrap")
    def _usual(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out of JSON the average that there was alone in earlier versions."""
        found: dict[str, Any] = serialise(self)
        return found if self.average != "cumulative" else {k: v for k, v in found.items() if k != "average"}


class ExportOrigin(Settings):
    """The run that the weights are from."""

    run: str
    """The run's directory."""
    recipe: dict[str, Any]
    """The recipe of the run, defaults included."""
    budget: dict[str, float]
    """What the search kept to, e.g. `{"latency_ms": 2.5}`; empty for an architecture that was named by the user."""
    weights: WeightsFacts | None = None
    """The weights of the supernet; None in exports of earlier versions."""
    own: OwnWeights | None = None
    """The weights that the network has of its own, in place of the supernet's; None if it has none."""

    @model_serializer(mode="wrap")
    def _of_supernet(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out of JSON what networks with the supernet's weights do not have."""
        return without(serialise(self), "own")


class Quantisation(Settings):
    """How a model in int8 was made."""

    recipe: str
    """Runtime that the quantised operators are written for."""
    ranges: Literal["minmax", "entropy", "percentile", "none"]
    """How ranges of activations were found; none where only weights are quantised."""
    images: Annotated[int, Field(ge=0)]
    """Training images that the ranges are from."""
    reduced_range: bool
    """Weights in seven bits, because the processor that it was made on would saturate with eight."""
    layers: Count
    """Convolutions and matrix products that could be quantised."""
    kept: tuple[str, ...]
    """The layers that stayed in fp32, because the accuracy suffered too much."""
    drop: float
    """The points of the score lost against fp32 on the samples held out for the search; negative if it gained."""
    max_drop: Annotated[float, Field(ge=0.0)]
    """The points of the score that it was allowed to lose."""


class Artefact(Settings):
    """One model: its files, what they are for, and what was found out about them."""

    format: str
    """The format of the file: a key of `nasdeploy.exporting.formats.FORMATS`."""
    precision: Precision
    """The precision that the file is in."""
    files: tuple[FileFacts, ...] = Field(min_length=1)
    """The first is the one that is opened; the others lie beside it."""
    device: Device
    """The device that it is for, with the runtime that opens it."""
    capabilities: tuple[str, ...] = ()
    """Compute capabilities of the GPUs that it is for, if it is tied to them and they are not just the one here."""
    largest_batch: Count | None = None
    """Images that a call may hold at most; None for any number from 1 on. An empty batch has no answer."""
    not_run: str | None = None
    """Why it could not run here. `proof` is then that of the ONNX model that it was built from, in ONNX Runtime, and
    says nothing of latency."""
    fingerprint: Fingerprint | None
    """The fingerprint of the machine that it was proved on; None if it was not run."""
    quantisation: Quantisation | None = None
    """How it was quantised; None unless it is in int8."""
    proof: Proof
    """What was found out about it."""
    parts: dict[str, str] = Field(default_factory=dict)
    """The name of the file that is opened for each part of a network of several; else it is the first file."""

    @model_serializer(mode="wrap")
    def _of_one_part(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out of JSON what networks of one part do not have."""
        return without(serialise(self), "parts")

    @property
    def file(self) -> FileFacts:
        """The file that is opened."""
        return self.files[0]

    @property
    def bytes(self) -> int:
        """The bytes of all files together."""
        return sum(file.bytes for file in self.files)


class Embedded(Settings):
    """A model that preprocesses by itself: uint8 `image` [batch, height, width, 3] of any size, RGB, to logits."""

    file: FileFacts
    """The file."""
    model: str
    """Name of the file of the model that it was made of."""
    images: Count
    """Test images on which the two were compared."""
    difference: Annotated[float, Field(ge=0.0)]
    """Largest difference of their logits, as a part of the logits' spread."""
    allowed: Annotated[float, Field(ge=0.0)]
    """The largest difference that counts as agreement."""
    changed: Annotated[int, Field(ge=0)]
    """Images that get another class."""


class BundleManifest(Settings):
    """Everything that whoever deploys the models of any network has to know. All are of the same network."""

    schema_version: Literal[2] = 2
    """The version of the manifest's form."""
    created: str
    """The time of the export: UTC, ISO 8601."""
    artefacts: tuple[Artefact, ...] = Field(min_length=1)
    """The models, one for each format and precision."""
    embedded: tuple[Embedded, ...] = ()
    """The models that preprocess by themselves."""
    arch: dict[str, Any]
    """The values of the architecture's choices."""
    digest: Digest
    """The digest of the architecture."""
    space: SpaceFacts
    """The search space that the architecture is of."""
    macs: Count
    """The multiply-accumulate operations for one sample."""
    params: Count
    """The number of learned parameters."""
    recalibration: Recalibration | OwnStatistics
    """The images that batch-norm statistics are from, or `own statistics` where they came with the weights."""
    device: Device
    """The device that the export was for; artefacts of formats that its runtime does not open have their own."""
    origin: ExportOrigin
    """The run that the weights are from."""
    versions: dict[str, str]
    """The version of each package, by name."""

    @property
    def interfaces(self) -> tuple[PartFacts, ...]:
        """The inputs and outputs of each part's file."""
        raise NotImplementedError

    @property
    def task_name(self) -> str:
        """The name of the task that the network was trained for."""
        raise NotImplementedError

    @property
    def input_text(self) -> str:
        """The shape of what the network takes, for people."""
        return "; ".join(
            f"{part.name} takes {', '.join(f'{each.name} {list(each.shape[1:])}' for each in part.inputs)}"
            for part in self.interfaces
        )

    @model_validator(mode="after")
    def _distinct(self) -> "BundleManifest":
        names = [file.name for artefact in self.artefacts for file in artefact.files]
        names += [each.file.name for each in self.embedded]
        if len(set(names)) < len(names):
            raise ValueError("two artefacts have a file of the same name")
        return self


class TaskManifest(BundleManifest):
    """The manifest of a network of any task, whose parts are files of their own."""

    task: str
    """The key in `nasdeploy.tasks.TASKS` of what the network was trained for."""
    parts: tuple[PartFacts, ...] = Field(min_length=1)
    """The parts of the network, each of which is a file."""

    @property
    def interfaces(self) -> tuple[PartFacts, ...]:
        """The inputs and outputs of each part's file."""
        return self.parts

    @property
    def task_name(self) -> str:
        """The name of the task that the network was trained for."""
        return self.task


class ExportManifest(BundleManifest):
    """The manifest of a classifier of images, which is one file."""

    inputs: tuple[TensorFacts, ...] = Field(min_length=1)
    """The inputs of the model."""
    outputs: tuple[TensorFacts, ...] = Field(min_length=1)
    """The outputs of the model."""
    preprocessing: Preprocessing
    """The steps from an image file to the model's input."""
    labels: tuple[ClassName, ...] = Field(min_length=2)
    """The class names in the order of the logits."""
    data: DataFacts | None = None
    """The run's images; None in bundles of earlier versions."""
    task: str = Classification.name
    """The key in `nasdeploy.tasks.TASKS` of what the network was trained for."""

    @model_serializer(mode="wrap")
    def _of_classification(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out of JSON the task that bundles of earlier versions are of, which do not name it."""
        fields: dict[str, Any] = serialise(self)
        return {name: value for name, value in fields.items() if (name, value) != ("task", Classification.name)}

    @property
    def interfaces(self) -> tuple[PartFacts, ...]:
        """The inputs and outputs of the one file."""
        return (PartFacts(name=NETWORK.name, inputs=self.inputs, outputs=self.outputs),)

    @property
    def task_name(self) -> str:
        """The name of the task that the network was trained for."""
        return self.task

    @property
    def input_text(self) -> str:
        """The shape of what the network takes, for people."""
        return f"input 3 x {self.preprocessing.resolution} x {self.preprocessing.resolution}"

    @model_validator(mode="after")
    def _consistent(self) -> "ExportManifest":
        if self.outputs[0].shape != ("batch", len(self.labels)):
            raise ValueError(f"{len(self.labels)} labels for an output of shape {list(self.outputs[0].shape)}")
        side = self.preprocessing.resolution
        if self.inputs[0].shape != ("batch", 3, side, side):
            raise ValueError(f"preprocessing to {side} x {side} for an input of shape {list(self.inputs[0].shape)}")
        return self


def read_manifest(path: Path) -> BundleManifest:
    """Return the manifest in a file; raises `UserError` if it is damaged. Models are not looked at."""
    content = read_object(path, "export again")
    kind: type[BundleManifest] = TaskManifest if "parts" in content else ExportManifest
    return parse_record(kind, content, path, "export again")


def load_export(directory: Path) -> BundleManifest:
    """Return the manifest of an export, after making sure that the files of its models are those that it describes.

    Raises `UserError` if any of them is missing, damaged or edited, or if a model was rejected.
    """
    path = directory / MANIFEST
    if not path.is_file():
        raise UserError(f"{directory}: no exported model there (no {MANIFEST}); make one with `nd.export()`")
    manifest = read_manifest(path)
    for artefact in manifest.artefacts:
        if artefact.proof.problems:
            raise UserError(f"{path}: of a model that was rejected ({artefact.proof.problems[0]}); export again")
        for file in artefact.files:
            _verify(directory / file.name, file)
    for each in manifest.embedded:
        _verify(directory / each.file.name, each.file)
    return manifest


def _verify(path: Path, expected: FileFacts) -> None:
    """Raise `UserError` unless the file has the manifest's size and checksum."""
    try:
        found = FileFacts.of(path) if path.stat().st_size == expected.bytes else None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); export again") from None
    if found != expected:
        raise UserError(f"{path}: damaged, or of another export than {MANIFEST} beside it; export again")


def part_facts(part: Part, names: tuple[tuple[str, ...], tuple[str, ...]]) -> PartFacts:
    """Return the inputs and outputs that the file of a part has to have, of these names."""
    made = {step.name: step.block.output for step in part}
    given, results = names
    return PartFacts(
        name=part.name,
        runs=part.runs,
        inputs=tuple(_facts(name, tensor) for name, (_, tensor) in zip(given, part.inputs, strict=True)),
        outputs=tuple(_facts(name, made[step]) for name, step in zip(results, part.outputs, strict=True)),
    )


def _facts(name: str, tensor: TensorType) -> TensorFacts:
    return TensorFacts(name=name, dtype=tensor.dtype, shape=("batch", *tensor.shape))
