"""The whole way from a supernet to a file with its manifest, and what happens to a file that is wrong."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from nasdeploy.convert import to_onnx
from nasdeploy.core.errors import CheckFailed, UserError
from nasdeploy.data.decode import read_rgb
from nasdeploy.data.transforms import prepare
from nasdeploy.exporting import conversions
from nasdeploy.exporting.bundle.write import load_bundle
from nasdeploy.exporting.export import Exporter
from nasdeploy.exporting.formats import FORMATS
from nasdeploy.exporting.formats.format import Source
from nasdeploy.exporting.formats.torch import TorchFormat
from nasdeploy.exporting.manifest import ExportManifest
from nasdeploy.supernet.evaluate import calibrate
from nasdeploy.supernet.supernet import extract
from tests.exporting.models import Tampered, exporter, jobs, latency_table
from tests.small_spaces import one_stage

PROGRAMS = ["pictures.py", "predict.py"]
BUNDLE = [".gitattributes", "README.md", "SHA256SUMS", "manifest.json", "model.onnx", *PROGRAMS, "sample.npz"]


def perturb(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.2, tensor.name))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Exporter, Path]:
    root = tmp_path_factory.mktemp("export")
    made = exporter(root, table=latency_table(one_stage(), 1e-4))
    made.export(one_stage().named["t0"], root / "out", jobs())
    return made, root / "out"


def test_the_manifest_tells_what_was_exported(exported: tuple[Exporter, Path]) -> None:
    made, out = exported
    assert sorted(path.name for path in out.iterdir()) == BUNDLE
    manifest = load_bundle(out)
    arch = one_stage().named["t0"]
    assert one_stage().arch(manifest.arch) == arch
    assert (manifest.digest, manifest.artefacts[0].format) == (arch.digest, "onnx")
    assert manifest.macs == one_stage().plan(arch).macs
    assert manifest.labels == ("ant", "bee", "cat")
    assert manifest.recalibration != "own statistics"
    assert manifest.recalibration.augment == made.data.settings.augment
    assert manifest.origin.budget == {"latency_ms": 1.5}
    assert manifest.artefacts[0].proof.agreement is not None
    assert manifest.artefacts[0].proof.agreement.batches == (1, 2, 7, 32, 33)
    latency = manifest.artefacts[0].proof.latency
    assert latency is not None
    assert latency.predicted_ms == pytest.approx(0.4, rel=1e-6)  # Stem, two blocks, head.
    assert latency.remarks == ()


def test_figures_are_those_of_the_file_on_the_image_files(exported: tuple[Exporter, Path]) -> None:
    made, out = exported
    manifest = load_bundle(out)
    session = onnxruntime.InferenceSession(out / "model.onnx")
    correct = 0
    for path in sorted(Path(made.data.settings.path or "").glob("test/*/*")):
        (logits,) = session.run(None, {"input": prepare(manifest.preprocessing, [read_rgb(path)]).numpy()})
        correct += manifest.labels[int(logits.argmax())] == path.parent.name
    accuracy = manifest.artefacts[0].proof.accuracy
    assert accuracy is not None
    assert (accuracy.images, accuracy.changed) == (75, 0)
    assert accuracy.top1 == accuracy.top1_pytorch == correct / 75
    assert accuracy.interval[0] < accuracy.top1 < accuracy.interval[1]


def test_statistics_are_averaged_as_the_recipe_says(exported: tuple[Exporter, Path], tmp_path: Path) -> None:
    made, out = exported
    assert made.recalibration is not None
    settings, arch = made.recalibration.model_copy(update={"average": "image-weighted"}), one_stage().named["t0"]
    replace(made, recalibration=settings).export(arch, tmp_path / "out", jobs())
    facts = [json.loads((each / "manifest.json").read_text())["recalibration"] for each in (tmp_path / "out", out)]
    assert [each.pop("average", None) for each in facts] == ["image-weighted", None]
    assert facts[0] == facts[1]
    calibration = made.data.calibration(settings.batch_size, settings.batches, made.seed)
    images = [inputs[0] for inputs in calibration(one_stage().plan(arch))]
    network = calibrate(extract(made.supernet, arch), images, average="image-weighted")
    with torch.no_grad():
        expected = network(images[0]).numpy()
    sessions = [onnxruntime.InferenceSession(each / "model.onnx") for each in (tmp_path / "out", out)]
    found, usual = (session.run(None, {"input": images[0].numpy()})[0] for session in sessions)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(usual - expected).max() > 1e-4


def test_recalibration_changes_the_file_and_keeping_statistics_does_not(
    exported: tuple[Exporter, Path], tmp_path: Path
) -> None:
    arch = one_stage().named["t0"]
    own = exporter(tmp_path, recalibrate=False)
    manifest = own.export(arch, tmp_path / "out", jobs())
    assert manifest.recalibration == "own statistics"
    assert manifest.artefacts[0].proof.latency is not None
    assert manifest.artefacts[0].proof.latency.predicted_ms is None
    assert manifest.artefacts[0].proof.latency.remarks == (
        "no latency table of this space on device cpu: measured only",
    )
    images = torch.randn(5, 3, 12, 12)
    with torch.no_grad():
        expected = extract(own.supernet, arch).eval()(images).numpy()
    with_own, recalibrated = (
        onnxruntime.InferenceSession(out / "model.onnx").run(None, {"input": images.numpy()})[0]
        for out in (tmp_path / "out", exported[1])
    )
    np.testing.assert_allclose(with_own, expected, atol=1e-5)
    assert np.abs(recalibrated - expected).max() > 0.01


def test_a_wrong_file_is_kept_apart_and_the_good_one_stays(
    exported: tuple[Exporter, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, good = exported
    out = tmp_path / "out"
    copytree(good, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setitem(FORMATS, "onnx", Tampered(perturb))
    with pytest.raises(CheckFailed) as caught:
        made.export(one_stage().named["t0"], out, jobs())
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{out}/model.rejected.onnx: logits in a batch of 1 differ from PyTorch's by up to")
    assert {name: (out / name).read_bytes() for name in before} == before
    report = ExportManifest.model_validate_json((out / "manifest.rejected.json").read_bytes())
    assert report.artefacts[0].proof.problems[0] in message
    assert report.artefacts[0].file.bytes == (out / "model.rejected.onnx").stat().st_size
    assert (report.artefacts[0].file.name, report.artefacts[0].proof.accuracy) == ("model.rejected.onnx", None)

    monkeypatch.undo()
    made.export(one_stage().named["t0"], out, jobs())
    assert sorted(path.name for path in out.iterdir()) == BUNDLE


def test_of_several_the_good_ones_stay(
    exported: tuple[Exporter, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, out = exported[0], tmp_path / "out"
    monkeypatch.setitem(FORMATS, "onnx", Tampered(perturb))  # type: ignore[arg-type]
    with pytest.raises(CheckFailed, match=r"model\.rejected\.onnx: logits in a batch of 1 differ"):
        made.export(one_stage().named["t0"], out, jobs("onnx", "torch"))
    (artefact,) = load_bundle(out).artefacts
    assert (artefact.format, artefact.device.name, artefact.proof.problems) == ("torch", "cpu-torch", ())
    accuracy = load_bundle(exported[1]).artefacts[0].proof.accuracy
    assert artefact.proof.accuracy is not None and accuracy is not None
    assert artefact.proof.accuracy.classes == accuracy.classes
    (rejected,) = ExportManifest.model_validate_json((out / "manifest.rejected.json").read_bytes()).artefacts
    assert [file.name for file in rejected.files] == ["model.rejected.onnx"]


def test_a_place_that_cannot_be_written_costs_no_work(
    exported: tuple[Exporter, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("kept")
    monkeypatch.setattr(Exporter, "_network", lambda self, arch: pytest.fail("it has begun"))
    with pytest.raises(UserError, match="file/out: cannot be written"):
        exported[0].export(one_stage().named["t0"], tmp_path / "file/out", jobs())
    assert (tmp_path / "file").read_text() == "kept"


class Lossy(TorchFormat):
    """As a precision is that loses more accuracy than it may."""

    def write(self, source: Source, path: Path) -> None:
        super().write(source, path)
        raise CheckFailed("too lossy")


def test_a_format_that_cannot_be_made_costs_the_others_nothing(
    exported: tuple[Exporter, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMATS, "torch", Lossy())  # type: ignore[arg-type]
    with pytest.raises(CheckFailed, match="too lossy"):
        exported[0].export(one_stage().named["t0"], tmp_path / "out", jobs("torch", "onnx"))
    (artefact,) = load_bundle(tmp_path / "out").artefacts
    assert (artefact.format, artefact.proof.problems) == ("onnx", ())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == BUNDLE


def test_int8_tells_how_it_was_made_and_what_it_gains(exported: tuple[Exporter, Path], tmp_path: Path) -> None:
    made = replace(exported[0], target=replace(exported[0].target, max_drop=100.0))
    (artefact,) = made.export(one_stage().named["t0"], tmp_path / "out", jobs(precision="int8")).artefacts
    assert artefact.file.name == "model.int8.onnx"
    made_how, proof = artefact.quantisation, artefact.proof
    assert made_how is not None and proof.agreement is not None and proof.latency is not None
    # 24 training images, of which a part is held out for the search.
    assert made_how.images == len(made.data.sets.train) < 24
    assert (made_how.recipe, made_how.ranges, made_how.kept) == ("onnxruntime", "percentile", ())
    assert proof.agreement.tolerance.allowed is None
    assert 0 < proof.agreement.difference < 0.2
    assert proof.latency.times_fp32 is not None
    slower = [remark for remark in proof.latency.remarks if "is not faster than fp32 here" in remark]
    assert len(slower) == (proof.latency.times_fp32 >= 0.98)


def test_figures_by_class_add_up(exported: tuple[Exporter, Path]) -> None:
    proof = load_bundle(exported[1]).artefacts[0].proof
    assert proof.accuracy is not None and proof.footprint is not None
    assert [each.images for each in proof.accuracy.classes] == [25, 25, 25]
    assert sum(each.correct for each in proof.accuracy.classes) == round(75 * proof.accuracy.top1)
    assert proof.accuracy.top5 is None
    # Python, NumPy and ONNX Runtime alone; with PyTorch it would be several times as much.
    assert 30e6 < proof.footprint.peak_bytes < 250e6
    assert 0 < proof.footprint.load_s < 60


def test_a_network_that_computes_no_numbers_is_refused(exported: tuple[Exporter, Path], tmp_path: Path) -> None:
    broken = deepcopy(exported[0])
    with torch.no_grad():
        next(broken.supernet.parameters()).fill_(torch.nan)
    with pytest.raises(CheckFailed, match="PyTorch's own logits are not finite"):
        broken.export(one_stage().named["t0"], tmp_path / "out", jobs())
    assert not (tmp_path / "out/model.onnx").exists()


def test_equal_weights_give_equal_files(
    exported: tuple[Exporter, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, out = exported
    monkeypatch.setattr(conversions, "to_onnx", to_onnx)
    again = made.export(one_stage().named["t0"], tmp_path / "again", jobs())
    assert again.artefacts[0].files == load_bundle(out).artefacts[0].files
    assert str(tmp_path) not in json.dumps(again.model_dump(mode="json")["artefacts"][0]["files"])
