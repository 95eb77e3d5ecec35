"""The networks of a run that have weights of their own, beside the supernet's: where they lie, and what they are.

Each is a directory with the weights, in safetensors, and a record in JSON, which appear and are replaced together. An
architecture may have both kinds: what the pretrained original became on the run's data, and the same trained further.
Torch-free; `nasdeploy.supernet.networks` reads and writes the weights.
"""

import shutil
from dataclasses import dataclass
from hashlib import file_digest
from math import isfinite, nan
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.score import Metric, Score
from nasdeploy.core.settings import Settings
from nasdeploy.core.space import SearchSpace
from nasdeploy.store.checkpoints import WeightsFacts
from nasdeploy.store.files import writable
from nasdeploy.store.records import Count, read_record
from nasdeploy.store.run import Run

NetworkKind = Literal["original", "finetuned"]
"""What a network with weights of its own is: the pretrained one as it was trained on the run's data before there were
sub-networks, or one that was trained alone from the weights that it inherited."""

RECORD, WEIGHTS, FINETUNED = "network.json", "weights.safetensors", "finetune.json"
_SHA256 = r"^[0-9a-f]{64}$"


class HeldOutScore(Settings):
    """The score of a network on the training samples that are held out for the search, as JSON."""

    value: float
    """The score by the metric of the task."""
    error: float
    """The standard error of `value`."""
    loss: float | None
    """The mean label loss; None if the network's outputs were no numbers."""
    samples: Count
    """The number of samples."""

    @classmethod
    def of(cls, score: Score) -> "HeldOutScore":
        """Return `score` as JSON holds it."""
        loss = score.loss if isfinite(score.loss) else None
        return cls(value=score.value, error=score.error, loss=loss, samples=score.samples)

    def score(self, metric: Metric) -> Score:
        """Return the score by `metric`, which it is of."""
        return Score(metric, self.value, self.error, self.samples, nan if self.loss is None else self.loss)


class NetworkFacts(Settings):
    """What is known of a network with weights of its own when it is kept."""

    kind: NetworkKind
    """What it is: the pretrained `original`, trained on the run's data before there were sub-networks, or `finetuned`,
    trained alone from the weights that it inherited."""
    epochs: Count
    """The epochs that it was trained for: all of them of an original, those alone of a fine-tuned one."""
    checkpoint: WeightsFacts
    """The checkpoint of the supernet that its weights, or those that it began with, were taken from."""
    inherited: Literal["supernet", "original"] = "supernet"
    """The weights that it began with: the supernet's, or those of the run's original of the same architecture."""
    before: HeldOutScore | None = None
    """The score with the weights that it began with; None where that was not measured."""
    after: HeldOutScore | None = None
    """The score with its own weights; None where that was not measured."""


class OwnWeights(NetworkFacts):
    """What weights of its own a network has."""

    sha256: str = Field(pattern=_SHA256)
    """The sum of the file that the run keeps them in."""

    def text(self, metric: Metric) -> str:
        """Return what they are, and what they are worth by `metric`, for people."""
        if self.kind == "original":
            return f"its own, those of the pretrained original after {_counted(self.epochs)} on the run's data"
        gained = "" if self.before is None or self.after is None else f": {_gained(self.before, self.after, metric)}"
        return f"its own, fine-tuned for {_counted(self.epochs)}{gained}"


class KeptNetworkRecord(OwnWeights):
    """What stands beside the weights of a kept network."""

    schema_version: Literal[1] = 1
    digest: str
    """The architecture's."""
    arch: dict[str, Any]

    @property
    def own_weights(self) -> OwnWeights:
        """What weights it has, without the network."""
        return OwnWeights(**self.model_dump(include=set(OwnWeights.model_fields)))


class FinetuneRecord(Settings):
    """What the training of one network alone came to, also where its weights were not kept."""

    schema_version: Literal[1] = 1
    """The version of the record's form."""
    digest: str
    """The architecture's."""
    arch: dict[str, Any]
    """The values of the architecture's choices."""
    epochs: Count
    """The epochs that it was trained for."""
    before: HeldOutScore
    """The score with the weights that it inherited."""
    after: HeldOutScore
    """The score with the weights that it was trained to."""
    kept: bool
    """Whether its weights are those that are delivered; not if the network does worse with them than before."""

    def text(self, metric: Metric) -> str:
        """Return what came of it, for people, with scores by `metric`."""
        end = "" if self.kept else "; that is worse, so the inherited weights stay"
        gained = _gained(self.before, self.after, metric)
        return f"{self.digest} fine-tuned for {_counted(self.epochs)}: {gained}{end}"


def _counted(epochs: int) -> str:
    return "1 epoch" if epochs == 1 else f"{epochs} epochs"


def _gained(before: HeldOutScore, after: HeldOutScore, metric: Metric) -> str:
    earlier, now = (metric.text(score.value) for score in (before, after))
    return f"{metric.name} on {after.samples} held-out {metric.samples} {now}, before {earlier}"


@dataclass(frozen=True)
class KeptNetwork:
    """A network that a run keeps, whose weights were not read yet."""

    path: Path
    """The directory."""
    record: KeptNetworkRecord

    @property
    def weights(self) -> Path:
        """The file of its weights."""
        return self.path / WEIGHTS

    def arch(self, space: SearchSpace) -> Arch:
        """Return its architecture; raises `UserError` if it is none of `space`, or not the one that it says."""
        try:
            arch = space.arch(self.record.arch)
        except UserError as error:
            raise UserError(f"{self.path / RECORD}: damaged ({error}); {REMEDY}") from None
        if arch.digest != self.record.digest:
            raise UserError(f"{self.path / RECORD}: damaged, architecture {arch.digest} has another digest; {REMEDY}")
        return arch

    def require_whole(self) -> None:
        """Raise `UserError` if the weights are gone, or not those that were written."""
        try:
            with self.weights.open("rb") as file:
                found = file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"{self.weights}: cannot be read ({error.strerror}); {REMEDY}") from None
        if found != self.record.sha256:
            raise UserError(f"{self.weights}: damaged, or not the weights that {RECORD} tells of; {REMEDY}")


REMEDY = "restore it, or delete that directory to do without"


def networks_directory(run: Run) -> Path:
    """Return the directory of a run with its networks that have weights of their own, which may not be there."""
    return run.path / "networks"


def network_directory(run: Run, kind: NetworkKind, digest: str) -> Path:
    """Return where the run keeps the network of this kind of the architecture with this digest."""
    return networks_directory(run) / f"{kind}-{digest}"


def kept_network(run: Run, kind: NetworkKind, digest: str) -> KeptNetwork | None:
    """Return the network of this kind of the architecture with this digest; None if the run keeps none.

    Raises `UserError` if its record is damaged. The weights are not looked at.
    """
    directory = network_directory(run, kind, digest)
    return _read(directory) if directory.is_dir() else None


def kept_networks(run: Run, kind: NetworkKind) -> list[KeptNetwork]:
    """Return all networks of a kind that a run keeps, by digest; raises `UserError` if a record is damaged."""
    return [_read(directory) for directory in sorted(networks_directory(run).glob(f"{kind}-*")) if directory.is_dir()]


def remove_network(run: Run, kind: NetworkKind, digest: str) -> None:
    """Delete a network of a run, if it keeps it; raises `UserError` if that cannot be done."""
    directory = network_directory(run, kind, digest)
    if directory.is_dir():
        with writable(directory):
            shutil.rmtree(directory)


def finetune_directory(run: Run, digest: str) -> Path:
    """Return where the network with this digest is fine-tuned: a run of its own, which may not be there."""
    return run.path / "finetune" / digest


def finetune_record(run: Run, digest: str) -> FinetuneRecord | None:
    """Return what the fine-tuning of a network came to; None unless it is finished.

    It is not, either, where the weights that were kept are gone. Raises `UserError` if the record is damaged.
    """
    file = finetune_directory(run, digest) / FINETUNED
    if not file.is_file():
        return None
    record = read_record(FinetuneRecord, file, "restore it, or fine-tune anew with `restart=True`")
    gone = record.kept and kept_network(run, "finetuned", digest) is None
    return None if gone else record


def own_network(run: Run, arch: Arch) -> KeptNetwork | None:
    """Return the network that is delivered of an architecture if it has weights of its own, the fine-tuned ones first.

    Raises `UserError` if its record is damaged.
    """
    return kept_network(run, "finetuned", arch.digest) or kept_network(run, "original", arch.digest)


def kept_original(run: Run) -> KeptNetwork | None:
    """Return the original of a run; None if it has none. Raises `UserError` if there are several, or a damaged one."""
    found = kept_networks(run, "original")
    if len(found) > 1:
        raise UserError(f"{networks_directory(run)}: holds {len(found)} originals; delete all but the run's own")
    return found[0] if found else None


def _read(directory: Path) -> KeptNetwork:
    record = read_record(KeptNetworkRecord, directory / RECORD, REMEDY)
    if directory.name != f"{record.kind}-{record.digest}":
        raise UserError(f"{directory / RECORD}: tells of {record.kind}-{record.digest}; give the directory that name")
    return KeptNetwork(directory, record)
