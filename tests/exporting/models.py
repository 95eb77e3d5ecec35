"""A small trained-looking network, its images and a device, for tests of exported models."""

from collections.abc import Callable
from pathlib import Path

import onnx
import torch

from nasdeploy.core.plan import Plan
from nasdeploy.core.progress import Progress
from nasdeploy.core.space import SearchSpace
from nasdeploy.data.datasets import open_data
from nasdeploy.data.images import ImageSets
from nasdeploy.data.settings import AugmentSettings, DataSettings
from nasdeploy.exporting.export import Exporter
from nasdeploy.exporting.formats import ExportJob, plan_jobs
from nasdeploy.exporting.formats.format import Source
from nasdeploy.exporting.formats.onnx import OnnxFormat
from nasdeploy.exporting.manifest import ExportOrigin, TensorFacts, part_facts
from nasdeploy.exporting.proof import ExportTarget
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds, Timing
from nasdeploy.latency.runners.open_runner import fingerprint
from nasdeploy.latency.table import Conditions, LatencyTable, network_terms
from nasdeploy.nn.functional import BatchNormFamily
from nasdeploy.runtimes.device import Device
from nasdeploy.supernet.settings import RecalibrationSettings
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.tasks.classification import Classification
from nasdeploy.tasks.image_data import ImageData
from tests.data.pictures import write_folder
from tests.small_spaces import one_stage

QUICK = MeasurementProtocol(networks=Rounds(group=1, visits=1), warmup=1, kept=2, shortest_group_s=0, retries=0)
DEVICE = Device(name="cpu", runtime="onnxruntime")


def supernet_of(space: SearchSpace) -> Supernet:
    torch.manual_seed(0)
    supernet = Supernet(space)
    BatchNormFamily.randomise(supernet, torch.Generator().manual_seed(0))
    return supernet


def folder_data(root: Path) -> tuple[DataSettings, ImageSets]:
    """Pictures of 11 x 11 pixels in files, so that every step of preprocessing has something to do."""
    write_folder(root, {"train": {"ant": 8, "bee": 8, "cat": 8}, "test": {"ant": 25, "bee": 25, "cat": 25}}, side=11)
    augment = AugmentSettings(crop="pad", pad=1)
    data = DataSettings(kind="folder", path=str(root), size=8, resize=9, augment=augment, workers=0)
    return data, open_data(data, seed=0)


def latency_table(space: SearchSpace, seconds: float) -> LatencyTable:
    """A table of this machine in which each block takes `seconds`, and a network as long as its blocks together."""
    known = {key: timing(seconds) for key in space.distinct_blocks()}
    archs = [space.smallest(), space.largest()]
    networks = [
        network_terms(known, space, arch, "calibration", timing(seconds * len(space.plan(arch).steps)))
        for arch in archs
    ]
    return LatencyTable.fitted(
        Conditions.of(space, DEVICE, fingerprint(DEVICE), QUICK), "2026-01-01T00:00:00+00:00", known, networks
    )


def timing(seconds: float) -> Timing:
    return Timing(seconds, seconds, seconds, seconds, 10, "2026-01-01T00:00:00+00:00")


def jobs(*formats: str, precision: str = "fp32") -> tuple[ExportJob, ...]:
    return plan_jobs(formats or ("onnx",), DEVICE, precision)


def exporter(root: Path, *, recalibrate: bool = True, table: LatencyTable | None = None) -> Exporter:
    data, sets = folder_data(root / "images")
    return Exporter(
        supernet=supernet_of(one_stage()),
        task=Classification(),
        data=ImageData(sets, data),
        recalibration=RecalibrationSettings(batch_size=12, batches=3) if recalibrate else None,
        seed=0,
        target=ExportTarget(DEVICE, table, QUICK),
        origin=ExportOrigin(run="runs/x", recipe={"name": "x"}, budget={"latency_ms": 1.5}),
        progress=Progress(quiet=True),
    )


def interface(plan: Plan) -> tuple[tuple[TensorFacts, ...], tuple[TensorFacts, ...]]:
    """Inputs and outputs that the file of a classifier has to have."""
    facts = part_facts(plan.only, Classification().tensor_names(plan)[plan.only.name])
    return facts.inputs, facts.outputs


class Tampered(OnnxFormat):
    """A converter that goes wrong."""

    def __init__(self, change: Callable[[onnx.ModelProto], None]) -> None:
        self._change = change

    def write(self, source: Source, path: Path) -> None:
        model = onnx.load_from_string(source.onnx(source.precision))
        self._change(model)
        path.write_bytes(model.SerializeToString())
