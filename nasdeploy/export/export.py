"""From a supernet to a model file: extraction, recalibration, conversion, proof, and a manifest beside it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from nasdeploy.arch import Arch
from nasdeploy.data.batches import calibration_batches
from nasdeploy.data.images import ImageSets
from nasdeploy.data.preprocessing import Preprocessing
from nasdeploy.data.settings import DataSettings
from nasdeploy.errors import CheckFailed
from nasdeploy.evaluate import recalibrated
from nasdeploy.export.agreement import Reference
from nasdeploy.export.figures import Proof
from nasdeploy.export.formats import FORMATS
from nasdeploy.export.manifest import (
    MANIFEST,
    OWN_STATISTICS,
    ExportManifest,
    FileFacts,
    Origin,
    OwnStatistics,
    Recalibration,
    SpaceFacts,
    interface,
)
from nasdeploy.export.proof import Target, prove
from nasdeploy.latency.device import fingerprint
from nasdeploy.nn.network import Network
from nasdeploy.progress import Progress, Task
from nasdeploy.registry import lookup
from nasdeploy.runtimes import runtime_of
from nasdeploy.store.files import replacing, write_bytes, write_json
from nasdeploy.store.versions import installed_versions
from nasdeploy.supernet.extract import extract
from nasdeploy.supernet.settings import RecalibrationSettings
from nasdeploy.supernet.supernet import Supernet, input_side

REJECTED_MANIFEST = "manifest.rejected.json"


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

    def export(self, arch: Arch, out: Path, form: str = "onnx") -> ExportManifest:
        """Write the model of `arch` and its manifest into the directory `out`, in place of an earlier one.

        Raises `CheckFailed` if the model does not pass its proof. It is then kept as `model.rejected.*` beside a
        `manifest.rejected.json` that says why, and an earlier model stays as it was.
        """
        chosen = lookup("format", FORMATS, form)
        runtime_of(self.target.device)  # A missing runtime is better found before the work than after it.
        network, recalibration = self._network(arch)
        preprocessing = Preprocessing.from_settings(self.data, input_side(network.plan))
        reference = Reference(network, preprocessing, self.sets.test, self.data)
        path = out / chosen.file_name
        with replacing(path) as partial:
            self.progress.say(f"export: converting to {form}, then proving the file")
            chosen.write(network, partial)
            proof = prove(partial, chosen, reference, self.target, self.progress)
            manifest = self._manifest(arch, form, FileFacts.of(partial), reference, recalibration, proof)
            if proof.problems:
                raise _rejected(partial, path, manifest)
        # Last: a model without its own manifest beside it is not taken for a finished export.
        write_json(out / MANIFEST, manifest.model_dump(mode="json"))
        for leftover in (_rejected_path(path), out / REJECTED_MANIFEST):
            leftover.unlink(missing_ok=True)
        return manifest

    def _network(self, arch: Arch) -> tuple[Network, Recalibration | OwnStatistics]:
        """The sub-network in evaluation mode on the CPU, and where its batch-norm statistics are from."""
        if self.recalibration is None:
            return extract(self.supernet, arch).eval().cpu(), OWN_STATISTICS
        size, count = self.recalibration.batch_size, self.recalibration.batches
        batches = calibration_batches(self.sets.train, self.data, size, count, self.seed)
        with self.progress.task("recalibration, batches", count) as task:
            network = recalibrated(self.supernet, arch, _counted(batches, task))
        facts = Recalibration(
            batch_size=len(next(iter(batches))), batches=count, augment=self.data.augment, seed=self.seed
        )
        return network.to(device="cpu").to(memory_format=torch.contiguous_format), facts

    def _manifest(
        self,
        arch: Arch,
        form: str,
        file: FileFacts,
        reference: Reference,
        recalibration: Recalibration | OwnStatistics,
        proof: Proof,
    ) -> ExportManifest:
        plan, space = reference.network.plan, self.supernet.space
        inputs, outputs = interface(plan)
        return ExportManifest(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            format=form,
            file=file,
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
            proof=proof,
            device=self.target.device,
            fingerprint=fingerprint(self.target.device),
            origin=self.origin,
            versions=installed_versions(),
        )


def _counted(batches: Iterable[Tensor], task: Task) -> Iterator[Tensor]:
    for batch in batches:
        yield batch
        task.advance()


def _rejected(file: Path, path: Path, manifest: ExportManifest) -> CheckFailed:
    """Keep a model that failed, and say why."""
    kept = _rejected_path(path)
    write_bytes(kept, file.read_bytes())
    report = path.with_name(REJECTED_MANIFEST)
    write_json(report, manifest.model_copy(update={"file": FileFacts.of(kept)}).model_dump(mode="json"))
    first, more = manifest.proof.problems[0], len(manifest.proof.problems) - 1
    return CheckFailed(f"{kept}: {first}{f' (and {more} more)' if more else ''}; see {report}")


def _rejected_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}.rejected{path.suffix}")
