"""Bundles with preprocessing in the graph and with a model repository for Triton."""

import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from nasdeploy.core.errors import CheckFailed, UserError
from nasdeploy.core.progress import Progress
from nasdeploy.data.decode import read_rgb
from nasdeploy.exporting.bundle import preprocessing_graph
from nasdeploy.exporting.bundle.pictures import prepare
from nasdeploy.exporting.bundle.write import load_bundle
from nasdeploy.exporting.formats import Extras
from nasdeploy.workflows.verify import verify
from tests.exporting.models import QUICK, exporter, jobs
from tests.small_spaces import one_stage
from tests.wording import assert_stops

BOTH = Extras(triton=True, embedded=True)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("extras")
    exporter(root).export(one_stage().named["t0"], root / "out", jobs("onnx", "openvino"), BOTH)
    return root


def test_the_sums_cover_all_of_it(exported: Path) -> None:
    done = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=exported / "out", capture_output=True, text=True, check=True
    )
    covered = (path for path in (exported / "out").rglob("[!.]*") if path.is_file() and path.name != "SHA256SUMS")
    assert len(done.stdout.splitlines()) == len(list(covered))


def test_images_go_in_as_they_are(exported: Path) -> None:
    manifest = load_bundle(exported / "out")
    (facts,) = manifest.embedded
    assert (facts.file.name, facts.model, facts.images) == ("model.embedded.onnx", "model.onnx", 75)
    assert facts.difference <= facts.allowed == 0.02
    inside, outside = (onnxruntime.InferenceSession(exported / "out" / name) for name in (facts.file.name, facts.model))
    changed, logits, differences = 0, [], []
    for path in (exported / "images/test").rglob("*.png"):
        picture = read_rgb(path)
        (found,) = inside.run(None, {"image": np.asarray(picture)[np.newaxis]})
        (expected,) = outside.run(None, {"input": prepare(picture, manifest.preprocessing.model_dump())})
        changed += int(found.argmax() != expected.argmax())
        logits.append(expected)
        differences.append(np.abs(found - expected).max())
    assert changed == facts.changed
    assert max(differences) / np.ptp(np.concatenate(logits)) == pytest.approx(facts.difference, rel=0.01, abs=1e-6)


def test_verification_tries_it(exported: Path) -> None:
    found = verify(exported / "out", Progress(quiet=True), protocol=QUICK)
    assert found.problems == ()
    assert [each.model for each in found.found] == ["model.onnx", "model.xml", "model.embedded.onnx"]
    assert found.found[-1].difference is not None and found.found[-1].difference < 0.02


def test_the_repository_is_in_tritons_form(exported: Path) -> None:
    """Field names and types are those of `model_config.proto`; `tritonclient` parses this text."""
    manifest, root = load_bundle(exported / "out"), exported / "out/triton"
    name = f"nasdeploy-{manifest.digest}-onnx-fp32"
    assert sorted(path.name for path in root.iterdir()) == [name, f"nasdeploy-{manifest.digest}-openvino-fp32"]
    assert (root / name / "config.pbtxt").read_text() == (
        f'name: "{name}"\n'
        'backend: "onnxruntime"\n'
        "max_batch_size: 32\n"
        'input [\n  {\n    name: "input"\n    data_type: TYPE_FP32\n    dims: [ 3, 12, 12 ]\n  }\n]\n'
        'output [\n  {\n    name: "logits"\n    data_type: TYPE_FP32\n    dims: [ 3 ]\n'
        '    label_filename: "labels.txt"\n  }\n]\n'
        "dynamic_batching { }\n"
        "instance_group [\n  { kind: KIND_CPU }\n]\n"
    )
    assert (root / name / "labels.txt").read_text() == "ant\nbee\ncat\n"
    assert (root / name / "1/model.onnx").read_bytes() == (exported / "out/model.onnx").read_bytes()
    assert sorted(path.name for path in root.glob("*openvino*/1/*")) == ["model.bin", "model.xml"]


def test_an_embedded_model_that_differs_is_refused(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = exporter(tmp_path, recalibrate=False)
    other = {"mean": (0.1, 0.1, 0.1)}
    real = preprocessing_graph.embed
    monkeypatch.setattr(preprocessing_graph, "embed", lambda model, steps: real(model, steps.model_copy(update=other)))
    with pytest.raises(
        CheckFailed,
        match=r"model\.embedded\.onnx: logits differ from those of model\.onnx by up to .* allowed 0\.02",
    ):
        made.export(one_stage().named["t0"], tmp_path / "out", jobs(), BOTH)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("extras", "formats", "message"),
    [
        (Extras(triton=True), ["torch"], "--layout triton: Triton serves onnx, openvino, tensorrt; add one of them"),
        (Extras(embedded=True), ["openvino"], "--embed-preprocessing is for format onnx; add it with --format"),
    ],
)
def test_formats_that_cannot_have_them_are_named(extras: Extras, formats: list[str], message: str) -> None:
    with assert_stops(UserError, match=message):
        extras.require(formats)
    extras.require(["onnx", *formats])
