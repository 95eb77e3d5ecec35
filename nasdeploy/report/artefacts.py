"""Exported models as a report shows them: the figures of each file's proof, and what it makes of the test images.

A run keeps the predictions of each classifier's file that was proved, in a file of arrays by the sum of the model's.
"""

from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasdeploy.core.score import Metric
from nasdeploy.exporting.manifest import Artefact, BundleManifest, ExportManifest
from nasdeploy.exporting.predictions import FilePredictions, Mistake
from nasdeploy.exporting.record import ModelLatency
from nasdeploy.tasks.file_scores import Accuracy, ProvenScore


@dataclass(frozen=True)
class ClassScore:
    """The images of one class that a file gets right."""

    label: str
    """The name of the class."""
    images: int
    """The number of its test images."""
    correct: int
    """The number of these that the file classifies rightly."""
    correct_pytorch: int
    """The number of these that PyTorch classifies rightly."""


@dataclass(frozen=True)
class ProvenLatency:
    """The measured latency of an exported model, in milliseconds."""

    median_ms: float
    """The milliseconds that half of the calls took at most."""
    p10_ms: float
    """The milliseconds that 10 % of the calls took at most."""
    p90_ms: float
    """The milliseconds that 90 % of the calls took at most."""
    p95_ms: float
    """The milliseconds that 95 % of the calls took at most."""
    runs: int
    """The number of runs."""
    noisy: bool
    """Whether the runs varied too much to be trusted."""
    usual_ms: float | None
    """The median in milliseconds as on a machine as quiet as when it was profiled; None without a latency table."""
    predicted_ms: float | None
    """The milliseconds that the latency table predicts; None without one."""
    after_gap_ms: float | None
    """The median in milliseconds of calls after a pause of `gap_ms`; None where that was not measured."""
    gap_ms: float | None
    """The milliseconds of that pause; None where that was not measured."""
    images_per_s: float | None
    """The samples that were done in a second, one call after the other; None where that was not measured."""
    times_fp32: float | None
    """The time as a multiple of that in fp32; None for fp32 itself."""
    remarks: tuple[str, ...]
    """What keeps prediction and measurement from being compared, one line each."""


@dataclass(frozen=True)
class ProofFigures:
    """What the proof of a model found, as far as it got."""

    problems: tuple[str, ...]
    """Why the model was rejected, one line each; empty for one that passed."""
    computed_in: str | None
    """The precision that the runtime computed in."""
    difference: float | None
    """The largest difference of outputs from PyTorch's, over several batch sizes."""
    allowed: float | None
    """The largest difference that is allowed; None where outputs only have to be numbers."""
    batches: tuple[int, ...]
    """The batch sizes that were tried."""
    value: float | None
    """The score of the file on the test set; times the metric's `scale` for what is shown."""
    interval: tuple[float, float] | None
    """The interval that holds the true score with 95 %."""
    value_pytorch: float | None
    """The score of the network in PyTorch on the same samples."""
    samples: int | None
    """The number of test samples."""
    unreadable: int
    """The number of test samples beside these that were left out, because they cannot be read."""
    changed: int | None
    """The number of test images that get another class than by PyTorch; None for other tasks."""
    top5: float | None
    """The part of the images whose label is among the first five; None for five classes or fewer."""
    classes: tuple[ClassScore, ...]
    """The scores by class in the order of the labels; empty for other tasks."""
    latency: ProvenLatency | None
    """The latency on the device; None where it was not measured."""
    load_s: float | None
    """The seconds to import the runtime, open the model and call it once, in a process of its own."""
    peak_bytes: int | None
    """The most bytes of memory of that process."""


@dataclass(frozen=True)
class ShownArtefact:
    """One exported model."""

    format: str
    """The format of the file."""
    precision: str
    """The precision that it is in."""
    file: str
    """The name of the file that is opened."""
    files: tuple[str, ...]
    """The names of all its files."""
    bytes: int
    """The bytes of all its files together."""
    sha256: str
    """The sum of the file that is opened."""
    device: str
    """The device that it is for."""
    runtime: str
    """The runtime that opens it."""
    not_run: str | None
    """Why it could not run on the machine of the export; None if it ran there."""
    kept_fp32: int | None
    """The number of layers that stayed in fp32; None unless it is in int8."""
    proof: ProofFigures
    """What its proof found."""


@dataclass(frozen=True)
class ShownExport:
    """A directory of models of one network."""

    directory: str
    """The path of the directory."""
    created: str
    """UTC, ISO 8601."""
    digest: str
    """The digest of the architecture."""
    arch: Mapping[str, Any]
    """The architecture as nested JSON."""
    chosen: bool
    """Whether it is the network that the latest search chose."""
    rejected: bool
    """Whether these are models that did not pass their proof."""
    macs: int
    """The multiply-accumulates for one sample."""
    params: int
    """The number of learned parameters."""
    input_text: str
    """The shape of what the network takes, for people."""
    weights: str
    """What weights the network has: `the supernet's`, or weights of its own, for people."""
    budget: Mapping[str, float]
    """The upper bounds that the search kept to, such as `latency_ms`; empty for a network that was named."""
    artefacts: tuple[ShownArtefact, ...]
    """The models, one for each format and precision."""
    metric: Metric
    """The metric of the scores."""
    versions: Mapping[str, str]
    """The versions of packages when it was exported."""
    labels: tuple[str, ...] = ()
    """The names of the classes in the order of the outputs; empty for other tasks."""


@dataclass(frozen=True)
class ConfusedPair:
    """A cell of the confusion matrix that is not empty."""

    truth: int
    """The index of the class that the images have."""
    predicted: int
    """The index of the class that they get."""
    images: int
    """The number of these images."""


@dataclass(frozen=True)
class WrongImage:
    """A test image that gets a wrong class."""

    name: str
    """The end of the path of its file, or its place in the test set; it may hold anything, as names of classes may."""
    truth: int
    """The index of its class."""
    predicted: int
    """The index of the class that it gets."""
    probability: float
    """The probability (softmax) that the file gives to the wrong class."""
    probability_of_truth: float
    """The probability that it gives to the right one."""
    picture: str
    """A small PNG or JPEG as a `data:image/...;base64,` URI; empty where the image cannot be read any more."""


@dataclass(frozen=True)
class PredictionReport:
    """The predictions of one exported file on all test images."""

    digest: str
    """The digest of the network."""
    file: str
    """The name of the model's file."""
    labels: tuple[str, ...]
    """The names of the classes, in the order of the indices."""
    images: int
    """The number of test images."""
    correct: int
    """The number of these that get the right class."""
    confusion: tuple[ConfusedPair, ...]
    """The cells of the confusion matrix that are not empty, by class."""
    wrong: tuple[WrongImage, ...]
    """The most confidently wrong images, at most twelve, most confident first."""

    @property
    def matrix(self) -> tuple[tuple[int, ...], ...]:
        """The confusion matrix `[classes][classes]`: the images of each class (rows) by the class that they get."""
        count = len(self.labels)
        cells = {(pair.truth, pair.predicted): pair.images for pair in self.confusion}
        return tuple(tuple(cells.get((row, column), 0) for column in range(count)) for row in range(count))


def shown_export(manifest: BundleManifest, directory: str, chosen: str | None, metric: Metric) -> ShownExport:
    """Return what a report shows of the manifest in a directory; `chosen` is the digest of the search's winner."""
    labels = manifest.labels if isinstance(manifest, ExportManifest) else ()
    own = manifest.origin.own
    return ShownExport(
        directory=directory,
        created=manifest.created,
        digest=manifest.digest,
        arch=manifest.arch,
        chosen=manifest.digest == chosen,
        rejected=any(made.proof.problems for made in manifest.artefacts),
        macs=manifest.macs,
        params=manifest.params,
        input_text=manifest.input_text,
        weights="the supernet's" if own is None else own.text(metric),
        budget=manifest.origin.budget,
        artefacts=tuple(_artefact(made, labels) for made in manifest.artefacts),
        metric=metric,
        versions=manifest.versions,
        labels=labels,
    )


def _artefact(made: Artefact, labels: tuple[str, ...]) -> ShownArtefact:
    return ShownArtefact(
        format=made.format,
        precision=made.precision,
        file=made.file.name,
        files=tuple(file.name for file in made.files),
        bytes=made.bytes,
        sha256=made.file.sha256,
        device=made.device.name,
        runtime=made.device.runtime,
        not_run=made.not_run,
        kept_fp32=None if made.quantisation is None else len(made.quantisation.kept),
        proof=_figures(made, labels),
    )


def _figures(made: Artefact, labels: tuple[str, ...]) -> ProofFigures:
    proof, score = made.proof, made.proof.tested
    agreement, footprint = proof.agreement, proof.footprint
    accuracy = score if isinstance(score, Accuracy) else None
    return ProofFigures(
        problems=proof.problems,
        computed_in=proof.computed_in,
        difference=None if agreement is None else agreement.difference,
        allowed=None if agreement is None else agreement.tolerance.allowed,
        batches=() if agreement is None else agreement.batches,
        **_score(score),
        changed=None if accuracy is None else accuracy.changed,
        top5=None if accuracy is None else accuracy.top5,
        classes=() if accuracy is None else _classes(accuracy, labels),
        latency=None if proof.latency is None else _latency(proof.latency),
        load_s=None if footprint is None else footprint.load_s,
        peak_bytes=None if footprint is None else footprint.peak_bytes,
    )


def _score(score: ProvenScore | None) -> dict[str, Any]:
    if score is None:
        return {"value": None, "interval": None, "value_pytorch": None, "samples": None, "unreadable": 0}
    return {
        "value": score.value,
        "interval": score.interval,
        "value_pytorch": score.value_pytorch,
        "samples": score.samples,
        "unreadable": score.unreadable,
    }


def _classes(accuracy: Accuracy, labels: tuple[str, ...]) -> tuple[ClassScore, ...]:
    return tuple(
        ClassScore(label, one.images, one.correct, one.correct_pytorch)
        for label, one in zip(labels, accuracy.classes, strict=False)
    )


def _latency(found: ModelLatency) -> ProvenLatency:
    after = found.after_gaps
    return ProvenLatency(
        median_ms=found.median_ms,
        p10_ms=found.p10_ms,
        p90_ms=found.p90_ms,
        p95_ms=found.p95_ms,
        runs=found.runs,
        noisy=found.noisy,
        usual_ms=found.usual_ms,
        predicted_ms=found.predicted_ms,
        after_gap_ms=None if after is None else after.median_ms,
        gap_ms=None if after is None else after.gap_ms,
        images_per_s=None if found.throughput is None else found.throughput.images_per_s,
        times_fp32=found.times_fp32,
        remarks=found.remarks,
    )


def prediction_report(found: FilePredictions, digest: str, file: str, labels: Sequence[str]) -> PredictionReport:
    """Return what a report shows of the predictions of a network's file, which are of classes of these names."""
    cells = Counter(zip(found.labels.tolist(), found.classes.tolist(), strict=True))
    return PredictionReport(
        digest=digest,
        file=file,
        labels=tuple(labels),
        images=len(found.labels),
        correct=int((found.labels == found.classes).sum()),
        confusion=tuple(ConfusedPair(truth, predicted, images) for (truth, predicted), images in sorted(cells.items())),
        wrong=tuple(_wrong(mistake, found) for mistake in found.mistakes),
    )


def _wrong(mistake: Mistake, found: FilePredictions) -> WrongImage:
    place = mistake.place
    return WrongImage(
        name=mistake.name,
        truth=int(found.labels[place]),
        predicted=int(found.classes[place]),
        probability=float(found.probabilities[place]),
        probability_of_truth=float(found.probabilities_of_truth[place]),
        picture=_as_uri(mistake.picture),
    )


_KINDS = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg"}
"""What files of the kinds that are shown begin with: nothing else is taken for a picture."""


def _as_uri(content: bytes) -> str:
    kind = next((kind for begin, kind in _KINDS.items() if content.startswith(begin)), None)
    return "" if kind is None else f"data:image/{kind};base64,{b64encode(content).decode('ascii')}"
