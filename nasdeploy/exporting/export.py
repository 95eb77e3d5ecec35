"""From a supernet to model files: extraction, recalibration, conversion, proof, and a manifest beside them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import CheckFailed
from nasdeploy.core.progress import Progress, Work
from nasdeploy.data.batches import calibration_batches
from nasdeploy.data.images import ImageSets, readable
from nasdeploy.data.preprocessing import Preprocessing
from nasdeploy.data.settings import DataSettings
from nasdeploy.exporting.bundle.preprocessing_graph import embed_models
from nasdeploy.exporting.bundle.verify import Sample, make_sample
from nasdeploy.exporting.bundle.write import About, install, reject, staging
from nasdeploy.exporting.compare import Disagreement, Reference, logits_of
from nasdeploy.exporting.conversions import Conversions, examples_of
from nasdeploy.exporting.formats.format import Source, file_name, files_of
from nasdeploy.exporting.jobs import Extras, Job
from nasdeploy.exporting.manifest import (
    OWN_STATISTICS,
    Artefact,
    Embedded,
    ExportManifest,
    FileFacts,
    Origin,
    OwnStatistics,
    Recalibration,
    SpaceFacts,
    interface,
)
from nasdeploy.exporting.proof import Target, prove, prove_half, prove_source, require_half
from nasdeploy.exporting.record import Proof
from nasdeploy.latency.runners.open_runner import fingerprint
from nasdeploy.nn.network import Network
from nasdeploy.store.records import installed_versions
from nasdeploy.supernet.evaluate import recalibrated
from nasdeploy.supernet.settings import RecalibrationSettings
from nasdeploy.supernet.supernet import Supernet, extract, input_side

_NONE = Extras()


@dataclass
class Exporter:
    """Exports sub-networks of a supernet, each proved on the test images."""

    supernet: Supernet
    sets: ImageSets
    data: DataSettings
    recalibration: RecalibrationSettings | None
    """None keeps the weights' own batch-norm statistics."""
    seed: int
    target: Target
    origin: Origin
    progress: Progress

    def export(self, arch: Arch, out: Path, jobs: Sequence[Job], extras: Extras = _NONE) -> ExportManifest:
        """Write a bundle with the models of `arch` into the directory `out`, in place of an earlier one.

        Raises `CheckFailed` if a model cannot be made within its limits, or does not pass its proof; then it is kept as
        `model.rejected.*` beside a `manifest.rejected.json` that says why. Those that passed are in a bundle; if none
        did, an earlier one stays as it was.
        """
        # First, so that a place that cannot be written costs no work.
        with staging(out) as stage:
            network, recalibration = self._network(arch)
            side = input_side(network.plan)
            reference = self._reference(network, side)
            examples = examples_of(self.sets, self.data, side)
            conversions = Conversions(network, examples, self.target.max_drop, self.progress)
            about = self._about(arch, reference, recalibration)
            made, refused = self._all_made(jobs, stage, reference, conversions)
            passed = tuple(artefact for artefact in made if not artefact.proof.problems)
            rejected = tuple(artefact for artefact in made if artefact.proof.problems)
            # The good ones first: what was made before is only replaced by something.
            manifest = self._install(stage, out, passed, about, reference, jobs, extras) if passed else None
            if rejected:
                raise reject(stage, out, rejected, about)
        if refused:
            if passed:
                self.progress.say(f"export: {', '.join(made.file.name for made in passed)} passed, in {out}")
            raise refused[0]
        assert manifest is not None  # There was a job, and it was not rejected.
        return manifest

    def _reference(self, network: Network, side: int) -> Reference:
        test = readable(self.sets.test, self.data)
        preprocessing = Preprocessing.from_settings(self.data, side)
        return Reference(network, preprocessing, test.images, self.data, test.unreadable)

    def _all_made(
        self, jobs: Sequence[Job], stage: Path, reference: Reference, conversions: Conversions
    ) -> tuple[list[Artefact], list[CheckFailed]]:
        """The models, and why others are none: a precision that cannot hold its accuracy costs only its own format."""
        made, refused = [], []
        for job in jobs:
            try:
                made.append(self._made(job, stage, reference, conversions))
            except CheckFailed as error:
                refused.append(error)
                for file in files_of(job.form, stage / file_name(job.form, job.precision)):
                    file.unlink(missing_ok=True)
        return made, refused

    def _install(
        self,
        stage: Path,
        out: Path,
        passed: tuple[Artefact, ...],
        about: About,
        reference: Reference,
        jobs: Sequence[Job],
        extras: Extras,
    ) -> ExportManifest:
        """The bundle of the models that passed, with what else was asked for."""
        sample = _sample(reference, jobs, passed, stage)
        embedded: tuple[Embedded, ...] = ()
        if extras.embedded:
            self.progress.say("export: preprocessing inside the graph, compared with that outside")
            embedded = embed_models(stage, passed, reference.images, reference.preprocessing)
        return install(stage, out, passed, about, sample, embedded, extras.triton)

    def _made(self, job: Job, stage: Path, reference: Reference, conversions: Conversions) -> Artefact:
        """A model in the directory `stage`, and what was found out about it."""
        path = stage / file_name(job.form, job.precision)
        recipe = job.form.recipe(job.device)
        source = Source(
            reference.network,
            lambda precision: conversions.onnx(precision, recipe),
            job.precision,
            job.device,
            job.capabilities,
        )
        require_half(job, conversions)
        self.progress.say(f"export: converting to {job.name} in {job.precision}, then proving the file")
        job.form.write(source, path)
        quantised = job.precision == "int8"
        return Artefact(
            format=job.name,
            precision=job.precision,
            files=tuple(FileFacts.of(file) for file in files_of(job.form, path)),
            device=job.device,
            capabilities=job.capabilities,
            largest_batch=job.form.largest_batch(job.device),
            not_run=job.not_run,
            fingerprint=None if job.not_run else fingerprint(job.device),
            quantisation=conversions.quantisation(recipe) if quantised else None,
            proof=self._proof(path, job, source, reference, conversions),
        )

    def _proof(self, path: Path, job: Job, source: Source, reference: Reference, conversions: Conversions) -> Proof:
        """Findings about a model, in fp16 first whether fp16 holds it, which the runtime here may not compute in."""
        half = None
        if job.precision == "fp16":
            try:
                half = prove_half(conversions, job, reference, self.progress)
            except Disagreement as disagreement:
                return Proof(problems=(f"in fp16 {disagreement}",))
        return self._proof_by_running(path, job, source, reference).model_copy(update={"half": half})

    def _proof_by_running(self, path: Path, job: Job, source: Source, reference: Reference) -> Proof:
        """Findings of the runtime; what is beside it only to be compared with lies in a directory of its own."""
        with TemporaryDirectory(dir=path.parent) as folder:
            if job.not_run is not None:
                onnx = Path(folder, path.name).with_suffix(".onnx")
                onnx.write_bytes(source.onnx(job.precision))
                return prove_source(path, onnx, job, reference, self.target, self.progress)
            if job.precision == "fp32":
                return prove(path, job, reference, self.target, self.progress)
            fp32 = Path(folder, file_name(job.form, "fp32"))
            job.form.write(replace(source, precision="fp32"), fp32)
            return prove(path, job, reference, self.target, self.progress, fp32)

    def _network(self, arch: Arch) -> tuple[Network, Recalibration | OwnStatistics]:
        """The sub-network in evaluation mode on the CPU, and where its batch-norm statistics are from."""
        if self.recalibration is None:
            return extract(self.supernet, arch).eval().cpu(), OWN_STATISTICS
        size, count = self.recalibration.batch_size, self.recalibration.batches
        batches = calibration_batches(self.sets.train, self.data, size, count, self.seed)
        with self.progress.task("recalibration, batches", count) as task:
            network = recalibrated(self.supernet, arch, _counted(batches, task))
        asked = min(size, len(self.sets.train))
        facts = Recalibration(
            batch_size=asked,
            batches=count,
            augment=self.data.augment,
            seed=self.seed,
            unreadable=asked * count - sum(map(len, batches.pixels)),
        )
        return network.to(device="cpu").to(memory_format=torch.contiguous_format), facts

    def _about(self, arch: Arch, reference: Reference, recalibration: Recalibration | OwnStatistics) -> About:
        """Makes the manifest of some models of `arch`."""
        plan, space = reference.network.plan, self.supernet.space
        inputs, outputs = interface(plan)

        def about(artefacts: tuple[Artefact, ...]) -> ExportManifest:
            return ExportManifest(
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                artefacts=artefacts,
                arch=arch.to_json(),
                digest=arch.digest,
                space=SpaceFacts(name=space.name, digest=space.digest),
                macs=plan.macs,
                params=plan.params,
                inputs=inputs,
                outputs=outputs,
                preprocessing=reference.preprocessing,
                labels=self.sets.classes,
                recalibration=recalibration,
                device=self.target.device,
                origin=self.origin,
                data=self.sets.split.facts,
                versions=installed_versions(),
            )

        return about


def _sample(reference: Reference, jobs: Sequence[Job], passed: tuple[Artefact, ...], stage: Path) -> Sample:
    """The sample, with the outputs of the models that run here."""
    sample = make_sample(reference.preprocessing, lambda inputs: reference.logits(torch.from_numpy(inputs)))
    outputs = {}
    for job in jobs:
        path = stage / file_name(job.form, job.precision)
        if job.not_run is None and path.name in {artefact.file.name for artefact in passed}:
            session = job.form.open(path, job.device)
            outputs[path.name] = logits_of(session, sample.input)
            session.close()
    return replace(sample, outputs=outputs)


def _counted(batches: Iterable[Tensor], task: Work) -> Iterator[Tensor]:
    for batch in batches:
        yield batch
        task.advance()
