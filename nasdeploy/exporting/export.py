"""From a supernet to model files: extraction, recalibration, conversion, proof, and a manifest beside them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TypeVar

import torch

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import CheckFailed, UserError
from nasdeploy.core.progress import Progress, Work
from nasdeploy.data.settings import AugmentSettings
from nasdeploy.exporting.bundle.write import BundleSample, install, reject, staging
from nasdeploy.exporting.conversions import Conversions, Examples
from nasdeploy.exporting.deliverables import PictureDeliverable, TensorDeliverable
from nasdeploy.exporting.formats import ExportJob, Extras
from nasdeploy.exporting.formats.format import STEM, Source, file_name, files_of
from nasdeploy.exporting.manifest import (
    OWN_STATISTICS,
    Artefact,
    BundleManifest,
    Embedded,
    ExportOrigin,
    FileFacts,
    OwnStatistics,
    Recalibration,
    SpaceFacts,
)
from nasdeploy.exporting.predictions import FilePredictions
from nasdeploy.exporting.proof import ExportTarget, Files, Gate, require_half
from nasdeploy.exporting.record import Disagreement, Proof, Reference, Sessions
from nasdeploy.latency.runners.open_runner import fingerprint
from nasdeploy.nn import needs_calibration
from nasdeploy.nn.network import Network, keep_freed_memory
from nasdeploy.store.records import installed_versions
from nasdeploy.supernet.evaluate import calibrate, laid_out_for_device
from nasdeploy.supernet.networks import copied
from nasdeploy.supernet.settings import RecalibrationSettings
from nasdeploy.supernet.supernet import Supernet, extract
from nasdeploy.tasks.image_data import ImageData
from nasdeploy.tasks.task import Delivery, Task, TaskData

T = TypeVar("T")
_NONE = Extras()


class Deliverable(Protocol):
    """What is delivered of a network beside its files, and what they are proved by."""

    @property
    def reference(self) -> Reference:
        """The network in PyTorch, with samples of what it is given."""

    def examples(self) -> Examples | None:
        """Return training samples for fp16 and int8; None where the task has fp32 only."""

    def manifest(self, facts: Mapping[str, Any]) -> BundleManifest:
        """Return the manifest of some models: these facts, and those of the kind."""

    def sample(self, models: Mapping[str, Callable[[], Sessions]]) -> BundleSample:
        """Return a sample with expected outputs, also of each of the models that run here, by name."""

    def embed(self, stage: Path, passed: Sequence[Artefact]) -> tuple[Embedded, ...]:
        """Write models that preprocess by themselves beside others in `stage`; raises `CheckFailed`."""

    def predictions(self) -> FilePredictions | None:
        """Return what the file that was proved last makes of each test image; None where images are not classified."""


DELIVERABLES: Mapping[Delivery, Callable[[Network, Task, TaskData], Deliverable]] = {
    "tensors": TensorDeliverable,
    "pictures": PictureDeliverable,
}
"""What is delivered by what a task says of it."""


@dataclass(frozen=True)
class ExportContext:
    """What the models of one network have in common while they are made."""

    stage: Path
    deliverable: Deliverable
    conversions: Conversions
    gate: Gate
    facts: Mapping[str, Any]
    """What the manifest says of all models."""

    def about(self, artefacts: tuple[Artefact, ...]) -> BundleManifest:
        """Return the manifest of some models."""
        return self.deliverable.manifest({"artefacts": artefacts, **self.facts})

    def files(self, folder: Path, job: ExportJob) -> Files:
        """Return where the models of a job lie in a folder, a file for each part."""
        plan = self.gate.plan
        stems = {plan.only.name: STEM} if len(plan.parts) == 1 else {part.name: part.name for part in plan.parts}
        return {part: folder / file_name(job.form, job.precision, stem) for part, stem in stems.items()}


@dataclass
class Exporter:
    """Exports sub-networks of a supernet, each proved on the test set, or the network `own` of that architecture."""

    supernet: Supernet
    task: Task
    data: TaskData
    recalibration: RecalibrationSettings | None
    """None keeps the weights' own batch-norm statistics."""
    seed: int
    target: ExportTarget
    origin: ExportOrigin
    progress: Progress
    own: Network | None = None
    """The network with weights of its own that is exported in place of the supernet's; None if there is none."""
    predictions: dict[str, FilePredictions] = field(default_factory=dict)
    """What the files that passed make of the test images, by the sum of the file that is opened."""

    def export(self, arch: Arch, out: Path, jobs: Sequence[ExportJob], extras: Extras = _NONE) -> BundleManifest:
        """Write a bundle with the models of `arch` into the directory `out`, in place of an earlier one.

        Raises `CheckFailed` if a model cannot be made within its limits, or does not pass its proof; then it is kept as
        `model.rejected.*` beside a `manifest.rejected.json` that says why. Those that passed are in a bundle; if none
        did, an earlier one stays as it was. Raises `UserError` for what networks of the task cannot have.
        """
        # First, so that a place that cannot be written costs no work.
        with staging(out) as stage:
            context = self._context(arch, stage)
            self._require_able(context, jobs, extras)
            made, refused = self._all_made(jobs, context)
            passed = tuple(artefact for artefact in made if not artefact.proof.problems)
            rejected = tuple(artefact for artefact in made if artefact.proof.problems)
            # The good ones first: what was made before is only replaced by something.
            manifest = self._install(out, passed, jobs, extras, context) if passed else None
            if rejected:
                raise reject(stage, out, rejected, context.about)
        if refused:
            if passed:
                self.progress.say(f"export: {', '.join(made.file.name for made in passed)} passed, in {out}")
            raise refused[0]
        assert manifest is not None  # There was a job, and it was not rejected.
        return manifest

    def _context(self, arch: Arch, stage: Path) -> ExportContext:
        network, recalibration = self._network(arch)
        deliverable = DELIVERABLES[self.task.delivery](network, self.task, self.data)
        conversions = Conversions(
            network, deliverable.examples(), self.target.max_drop, self.progress, names=deliverable.reference.names
        )
        space = self.supernet.space
        facts = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "arch": arch.to_json(),
            "digest": arch.digest,
            "space": SpaceFacts(name=space.name, digest=space.digest),
            "macs": network.plan.macs,
            "params": network.plan.params,
            "recalibration": recalibration,
            "device": self.target.device,
            "origin": self.origin,
            "versions": installed_versions(),
        }
        return ExportContext(
            stage, deliverable, conversions, Gate(deliverable.reference, self.target, self.progress), facts
        )

    def _require_able(self, context: ExportContext, jobs: Sequence[ExportJob], extras: Extras) -> None:
        """Raise `UserError` for what is not there for networks of this task."""
        if context.conversions.examples is None:
            lower = next((job.precision for job in jobs if job.precision != "fp32"), None)
            if lower is not None:
                raise UserError(f"precision {lower}: networks of task {self.task.name} are exported in fp32 only")
            if extras.triton or extras.embedded:
                raise UserError(f"task {self.task.name}: a bundle has no server layout and no preprocessing inside")
        if len(context.gate.plan.parts) > 1:
            whole = next((job.name for job in jobs if not job.form.holds_parts), None)
            if whole is not None:
                raise UserError(f"format {whole}: holds networks of one part only; use `format=onnx`")

    def _all_made(self, jobs: Sequence[ExportJob], context: ExportContext) -> tuple[list[Artefact], list[CheckFailed]]:
        """The models, and why others are none: a precision that cannot hold its accuracy costs only its own format."""
        made, refused = [], []
        for job in jobs:
            files = context.files(context.stage, job)
            try:
                made.append(self._made(job, files, context))
            except CheckFailed as error:
                refused.append(error)
                for path in files.values():
                    for file in files_of(job.form, path):
                        file.unlink(missing_ok=True)
        return made, refused

    def _install(
        self, out: Path, passed: tuple[Artefact, ...], jobs: Sequence[ExportJob], extras: Extras, context: ExportContext
    ) -> BundleManifest:
        """The bundle of the models that passed, with what else was asked for."""
        names = {artefact.file.name for artefact in passed}
        models = {}
        for job in jobs:
            files = context.files(context.stage, job)
            name = next(iter(files.values())).name
            if job.not_run is None and name in names:
                models[name] = _opener(job, files)
        with self.progress.stage("export: a sample with outputs"):
            sample = context.deliverable.sample(models)
        embedded: tuple[Embedded, ...] = ()
        if extras.embedded:
            self.progress.say("export: preprocessing inside the graph, compared with that outside")
            with self.progress.stage("export: preprocessing inside the graph"):
                embedded = context.deliverable.embed(context.stage, passed)
        manifest = context.about(passed).model_copy(update={"embedded": embedded})
        install(context.stage, out, manifest, sample, triton=extras.triton)
        return manifest

    def _made(self, job: ExportJob, files: Files, context: ExportContext) -> Artefact:
        """The model whose files are to be `files`, and what was found out about it."""
        conversions, recipe = context.conversions, job.form.recipe(job.device)
        require_half(job, conversions)
        self.progress.say(f"export: converting to {job.name} in {job.precision}, then proving the file")
        with self.progress.stage(f"export: converting to {job.name}"):
            for part, path in files.items():
                job.form.write(_source(job, part, context), path)
        quantised = job.precision == "int8"
        everything = [file for path in files.values() for file in files_of(job.form, path)]
        made = Artefact(
            format=job.name,
            precision=job.precision,
            files=tuple(FileFacts.of(file) for file in everything),
            device=job.device,
            capabilities=job.capabilities,
            largest_batch=job.form.largest_batch(job.device),
            not_run=job.not_run,
            fingerprint=None if job.not_run else fingerprint(job.device),
            quantisation=conversions.quantisation(recipe) if quantised else None,
            proof=self._proof(files, job, context),
            parts={part: path.name for part, path in files.items()} if len(files) > 1 else {},
        )
        predictions = None if made.proof.problems else context.deliverable.predictions()
        if predictions is not None:
            self.predictions[made.file.sha256] = predictions
        return made

    def _proof(self, files: Files, job: ExportJob, context: ExportContext) -> Proof:
        """Findings about a model, in fp16 first whether fp16 holds it, which the runtime here may not compute in."""
        half = None
        if job.precision == "fp16":
            try:
                half = context.gate.prove_half(context.conversions, job)
            except Disagreement as disagreement:
                return Proof(problems=(f"in fp16 {disagreement}",))
        return self._proof_by_running(files, job, context).model_copy(update={"half": half})

    def _proof_by_running(self, files: Files, job: ExportJob, context: ExportContext) -> Proof:
        """Findings of the runtime; what is beside it only to be compared with lies in a directory of its own."""
        with TemporaryDirectory(dir=context.stage) as folder:
            if job.not_run is not None:
                onnx = {part: Path(folder, path.name).with_suffix(".onnx") for part, path in files.items()}
                for part, path in onnx.items():
                    path.write_bytes(_source(job, part, context).onnx(job.precision))
                return context.gate.prove_source(files, onnx, job)
            if job.precision == "fp32":
                return context.gate.prove(files, job)
            fp32 = context.files(Path(folder), replace(job, precision="fp32"))
            with self.progress.stage(f"export: converting to {job.name} in fp32, to be compared with"):
                for part, path in fp32.items():
                    job.form.write(replace(_source(job, part, context), precision="fp32"), path)
            return context.gate.prove(files, job, fp32)

    def _network(self, arch: Arch) -> tuple[Network, Recalibration | OwnStatistics]:
        """The sub-network in evaluation mode on the CPU, and where its batch-norm statistics are from."""
        plan = self.supernet.space.plan(arch)
        if self.recalibration is None or not needs_calibration(plan):
            return self._extracted(arch).eval().cpu(), OWN_STATISTICS
        keep_freed_memory()
        size, count = self.recalibration.batch_size, self.recalibration.batches
        batches = self.data.calibration(size, count, self.seed)
        with self.progress.task("recalibration, batches", count) as task:
            images = (inputs[0] for inputs in _counted(batches(plan), task))
            average = self.recalibration.average
            network = calibrate(laid_out_for_device(self._extracted(arch)), images, average=average)
        asked = min(size, self.data.train_samples)
        facts = Recalibration(
            batch_size=asked,
            batches=count,
            average=average,
            augment=self.data.settings.augment if isinstance(self.data, ImageData) else AugmentSettings(),
            seed=self.seed,
            unreadable=asked * count - batches.samples,
        )
        return network.to(device="cpu").to(memory_format=torch.contiguous_format), facts

    def _extracted(self, arch: Arch) -> Network:
        """Return a copy of the network with its weights, where the supernet is."""
        if self.own is None:
            return extract(self.supernet, arch)
        return copied(self.own).to(next(self.supernet.parameters()).device)


def _source(job: ExportJob, part: str, context: ExportContext) -> Source:
    """What the file of a part is made from."""
    conversions, recipe = context.conversions, job.form.recipe(job.device)
    return Source(
        context.gate.reference.network,
        lambda precision: conversions.onnx(precision, recipe, part),
        job.precision,
        job.device,
        job.capabilities,
        conversions.tflite_int8,
    )


def _opener(job: ExportJob, files: Files) -> Callable[[], Sessions]:
    return lambda: {part: job.form.open(path, job.device) for part, path in files.items()}


def _counted(batches: Iterable[T], task: Work) -> Iterator[T]:
    for batch in batches:
        yield batch
        task.advance()
