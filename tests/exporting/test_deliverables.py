"""Networks of several parts and of another task are exported, proved and verified: a file for each part."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from math import exp
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor

from nasdeploy.core.errors import CheckFailed, UserError
from nasdeploy.core.plan import Plan
from nasdeploy.core.progress import Progress
from nasdeploy.core.score import Metric, Score
from nasdeploy.core.settings import Settings
from nasdeploy.exporting.bundle.verify import TensorSample
from nasdeploy.exporting.bundle.write import load_bundle
from nasdeploy.exporting.export import Exporter
from nasdeploy.exporting.formats import ExportJob, plan_jobs
from nasdeploy.exporting.formats.format import Source
from nasdeploy.exporting.formats.onnx import OnnxFormat
from nasdeploy.exporting.manifest import OWN_STATISTICS, ExportOrigin, TaskManifest
from nasdeploy.exporting.proof import ExportTarget
from nasdeploy.nn import FAMILIES
from nasdeploy.nn.network import PartRunner
from nasdeploy.store.run import RememberedData
from nasdeploy.supernet.settings import RecalibrationSettings
from nasdeploy.supernet.supernet import Supernet
from nasdeploy.tasks.classification import Classification
from nasdeploy.tasks.task import Batch, Inputs, Task, TaskData
from tests.exporting.models import DEVICE, QUICK
from tests.exporting.models import exporter as exporter_of_images
from tests.families.families import registered
from tests.families.space import CONTEXT, FEATURES, FRAMES, WRITTEN, Writer

SPACE, SAMPLES = Writer(), 40
ARCH = SPACE.largest()
PERPLEXITY = Metric("perplexity", "perplexity", maximise=False, best=1.0, aggregate="whole")


@pytest.fixture(autouse=True, scope="module")
def writer_families() -> Iterator[None]:
    with registered():
        yield


class Frames(TaskData):
    """Random frames with random tokens: only what an export asks for."""

    outputs, train_samples = SPACE.vocabulary, SAMPLES

    def test(self, batch_size: int) -> Iterator[Batch]:
        draw = torch.Generator().manual_seed(0)
        frames = torch.randn(SAMPLES, FRAMES, FEATURES, generator=draw)
        tokens = torch.randint(SPACE.vocabulary, (SAMPLES, WRITTEN), generator=draw)
        for at in range(0, SAMPLES, batch_size):
            yield (frames[at : at + batch_size],), tokens[at : at + batch_size]

    def record(self) -> RememberedData:
        return {}

    def _none(self, *given: Any, **named: Any) -> Any:
        raise AssertionError("an export asks for test samples only")

    train_batches = validation = calibration = held_out = _none


class Writing(Task):
    """What is written after the frames, scored by the perplexity of all tokens."""

    name, metric, data_settings = "writing", PERPLEXITY, Settings

    def open(self, settings: Any, seed: int, run: Any = None) -> TaskData:
        return Frames()

    def outputs(self, run: PartRunner, inputs: Inputs) -> Tensor:
        (frames,) = inputs
        memory, summary = run.run("encoder", frames)
        tokens, written = torch.zeros(len(frames), CONTEXT, dtype=torch.int64), []
        for _ in range(WRITTEN):
            (logits,) = run.run("step", memory, summary, tokens)
            tokens = torch.cat([tokens[:, 1:], logits.argmax(1, keepdim=True)], 1)
            written.append(logits)
        return torch.stack(written, 1)

    def score_outputs(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Score:
        losses = [F.cross_entropy(logits.mT, y, reduction="none").mean(1) for logits, y in batches]
        each = torch.cat(losses)
        return Score(PERPLEXITY, exp(each.mean()), float(each.std()) / len(each) ** 0.5, len(each), float(each.mean()))

    def tensor_names(self, plan: Plan) -> Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]:
        return {
            "encoder": (("frames",), ("memory", "summary")),
            "step": (("memory", "summary", "tokens"), ("logits",)),
        }

    def objective(self, *given: Any) -> Any:
        raise AssertionError("an export trains nothing")


def supernet() -> Supernet:
    torch.manual_seed(0)
    made, draw = Supernet(SPACE), torch.Generator().manual_seed(0)
    for slot in SPACE.slots:
        block = next(block for block in SPACE.blocks_of(slot) if block is not None)
        FAMILIES[type(block)].randomise(made.weights[slot.weights or slot.name], draw)
    return made


def exporter() -> Exporter:
    return Exporter(
        supernet=supernet(),
        task=Writing(),
        data=Frames(),
        # Nothing of these networks is calibrated, and no batch is drawn for it.
        recalibration=RecalibrationSettings(batch_size=4, batches=1),
        seed=0,
        target=ExportTarget(DEVICE, None, QUICK),
        origin=ExportOrigin(run="runs/x", recipe={"name": "x"}, budget={}),
        progress=Progress(quiet=True),
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("writer") / "out"
    exporter().export(ARCH, out, plan_jobs(["onnx"], DEVICE))
    return out


def test_each_part_is_a_file_of_its_own(bundle: Path) -> None:
    manifest = load_bundle(bundle)
    assert isinstance(manifest, TaskManifest)
    (made,) = manifest.artefacts
    assert made.parts == {"encoder": "encoder.onnx", "step": "step.onnx"}
    assert [file.name for file in made.files] == ["encoder.onnx", "step.onnx"]
    assert manifest.recalibration == OWN_STATISTICS
    assert [(part.name, part.runs) for part in manifest.parts] == [("encoder", 1), ("step", WRITTEN)]
    (_, _, tokens) = manifest.parts[1].inputs
    assert (tokens.name, tokens.dtype, tokens.shape) == ("tokens", "int64", ("batch", CONTEXT))
    names = sorted(path.name for path in bundle.iterdir())
    assert names == [
        ".gitattributes",
        "README.md",
        "SHA256SUMS",
        "encoder.onnx",
        "manifest.json",
        "sample.npz",
        "step.onnx",
    ]


def test_the_score_is_that_of_the_files(bundle: Path) -> None:
    sessions = {part: onnxruntime.InferenceSession(bundle / f"{part}.onnx") for part in ("encoder", "step")}

    class Files:
        plan = SPACE.plan(ARCH)

        def run(self, part: str, *inputs: Tensor) -> tuple[Tensor, ...]:
            session = sessions[part]
            feeds = {each.name: tensor.numpy() for each, tensor in zip(session.get_inputs(), inputs, strict=True)}
            return tuple(torch.from_numpy(array) for array in session.run(None, feeds))

    found = Writing().score(Files(), Frames().test(7))
    proof = load_bundle(bundle).artefacts[0].proof
    assert proof.accuracy is None and proof.score is not None and proof.agreement is not None
    assert proof.score.metric == PERPLEXITY
    assert proof.score.value == pytest.approx(found.value, rel=1e-5) == pytest.approx(proof.score.value_pytorch)
    assert proof.score.samples == SAMPLES
    assert proof.score.difference < 1e-4
    text = json.loads((bundle / "manifest.json").read_text())["artefacts"][0]["proof"]["score"]
    assert text["metric"]["key"] == "perplexity"


def test_the_latency_of_a_sample_is_that_of_all_its_runs(bundle: Path) -> None:
    proof = load_bundle(bundle).artefacts[0].proof
    assert proof.latency is not None and set(proof.parts) == {"encoder", "step"}
    expected = proof.parts["encoder"].median_ms + WRITTEN * proof.parts["step"].median_ms
    assert proof.latency.median_ms == pytest.approx(expected)
    assert proof.footprint is not None and proof.footprint.load_s > 0


def test_the_sample_holds_what_pytorch_and_the_files_give(bundle: Path) -> None:
    sample = TensorSample.load(bundle)
    assert sample.inputs["step"][2].dtype == np.int64
    for part, outputs in sample.expected("encoder.onnx").items():
        for expected, found in zip(sample.outputs[""][part], outputs, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-4)


class Distances(Classification):
    """Images whose users make something else of the logits than labels."""

    delivery = "tensors"


def test_the_task_says_what_is_delivered_whatever_its_data_are(tmp_path: Path) -> None:
    pictured = exporter_of_images(tmp_path, recalibrate=False)
    jobs = plan_jobs(["onnx"], DEVICE, "fp16")
    with pytest.raises(UserError, match="fp16: networks of task classification are exported in fp32 only"):
        replace(pictured, task=Distances()).export(pictured.supernet.space.smallest(), tmp_path / "out", jobs)


class Wrong(OnnxFormat):
    """The step's file computes something else."""

    def write(self, source: Source, path: Path) -> None:
        model = onnx.load_from_string(source.onnx(source.precision))
        if path.name.startswith("step"):
            tensor = next(each for each in model.graph.initializer if len(each.dims) == 2)
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.2), tensor.name))
        path.write_bytes(model.SerializeToString())


def test_a_part_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match="logits in a batch of 1 differ from PyTorch's by up to"):
        exporter().export(ARCH, tmp_path / "out", [ExportJob("onnx", Wrong(), "fp32", DEVICE)])
    report = json.loads((tmp_path / "out" / "manifest.rejected.json").read_text())
    assert report["artefacts"][0]["parts"] == {"encoder": "encoder.rejected.onnx", "step": "step.rejected.onnx"}


@pytest.mark.parametrize(
    ("form", "precision", "message"),
    [
        ("onnx", "int8", "precision int8: networks of task writing are exported in fp32 only"),
        ("torch", "fp32", "format torch: holds networks of one part only"),
    ],
)
def test_what_it_cannot_have_is_refused_in_one_line(form: str, precision: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        exporter().export(ARCH, tmp_path / "out", plan_jobs([form], DEVICE, precision))
