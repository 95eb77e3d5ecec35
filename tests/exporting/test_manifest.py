"""Manifests are read back as they were written, and damaged or foreign files are refused."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasdeploy.core.errors import UserError
from nasdeploy.core.settings import parse
from nasdeploy.data.settings import AugmentSettings, Preprocessing
from nasdeploy.exporting.deliverables import PictureDeliverable
from nasdeploy.exporting.manifest import (
    Artefact,
    BundleManifest,
    ExportManifest,
    ExportOrigin,
    FileFacts,
    Recalibration,
    SpaceFacts,
    load_export,
)
from nasdeploy.exporting.record import Agreement, ModelLatency, Proof
from nasdeploy.nn.network import Network
from nasdeploy.runtimes.device import Device
from nasdeploy.tasks.classification import Classification
from nasdeploy.tasks.file_scores import Accuracy
from nasdeploy.tasks.image_data import ImageData
from tests.exporting.models import folder_data, interface
from tests.latency.tables import FINGERPRINT
from tests.small_spaces import one_stage

MODEL = b"a model"


def artefact_of(proof: Proof, **changes: Any) -> Artefact:
    facts: dict[str, Any] = {
        "format": "onnx",
        "precision": "fp32",
        "files": (FileFacts(name="model.onnx", sha256=sha256(MODEL).hexdigest(), bytes=len(MODEL)),),
        "device": Device(name="cpu", runtime="onnxruntime"),
        "fingerprint": FINGERPRINT,
        "proof": proof,
    }
    return Artefact(**{**facts, **changes})


def manifest_of(proof: Proof, **changes: Any) -> ExportManifest:
    arch = one_stage().named["t0"]
    inputs, outputs = interface(one_stage().plan(arch))
    return ExportManifest(
        created="2026-01-01T00:00:00+00:00",
        artefacts=(artefact_of(proof),),
        arch=arch.to_json(),
        digest=arch.digest,
        space=SpaceFacts(name="tiny", digest=one_stage().digest),
        macs=1,
        params=2,
        inputs=inputs,
        outputs=outputs,
        preprocessing=Preprocessing(resize=9, crop=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resolution=12),
        labels=("ant", "bee", "cat"),
        device=Device(name="cpu", runtime="onnxruntime"),
        versions={"torch": "2"},
        **{
            "recalibration": "own statistics",
            "origin": ExportOrigin(run="runs/x", recipe={"name": "x", "data": {"size": [1, None]}}, budget={}),
            **changes,
        },
    )


def written(folder: Path, manifest: ExportManifest) -> Path:
    (folder / "model.onnx").write_bytes(MODEL)
    (folder / "manifest.json").write_text(json.dumps(manifest.model_dump(mode="json")))
    return folder


fractions, positive = st.floats(0, 1), st.floats(1e-6, 1e6)
proofs = st.builds(
    Proof,
    agreement=st.builds(Agreement, batches=st.just((1, 7)), difference=st.floats(0, 1)),
    accuracy=st.builds(
        Accuracy,
        images=st.integers(1, 10**6),
        top1=fractions,
        interval=st.tuples(fractions, fractions),
        top1_pytorch=fractions,
        changed=st.integers(0, 100),
        difference=positive,
    ),
    latency=st.builds(
        ModelLatency,
        median_ms=positive,
        p10_ms=positive,
        p90_ms=positive,
        p95_ms=positive,
        runs=st.integers(1, 10**6),
        noisy=st.booleans(),
        usual_ms=st.none() | positive,
        predicted_ms=st.none() | positive,
        remarks=st.lists(st.text()).map(tuple),
    ),
)
recalibrations = st.just("own statistics") | st.builds(
    Recalibration,
    batch_size=st.integers(1, 512),
    batches=st.integers(1, 64),
    augment=st.sampled_from([AugmentSettings(), AugmentSettings(crop="pad", pad=1), AugmentSettings(crop="none")]),
    seed=st.integers(0, 1 << 40),
)


@given(proofs, recalibrations, st.dictionaries(st.sampled_from(["latency_ms", "macs_m"]), positive))
def test_round_trip(proof: Proof, recalibration: Recalibration | str, budget: dict[str, float]) -> None:
    manifest = manifest_of(proof, recalibration=recalibration, origin=ExportOrigin(run="r", recipe={}, budget=budget))
    text = json.dumps(manifest.model_dump(mode="json"), allow_nan=False)
    assert parse(ExportManifest, json.loads(text), "manifest.json") == manifest


def test_a_whole_export_is_loaded(tmp_path: Path) -> None:
    manifest = manifest_of(Proof())
    assert load_export(written(tmp_path, manifest)) == manifest


def test_the_task_is_named_where_it_is_not_classification(tmp_path: Path) -> None:
    assert "task" not in manifest_of(Proof()).model_dump(mode="json")
    assert manifest_of(Proof()).task_name == "classification"
    loaded = load_export(written(tmp_path, manifest_of(Proof(), task="counting")))
    assert isinstance(loaded, ExportManifest)
    assert loaded.task_name == "counting"


class Counting(Classification):
    """Another task whose deliverable is a picture's."""

    name = "counting"


def test_the_manifest_of_pictures_names_the_task_that_they_are_of(tmp_path: Path) -> None:
    data, sets = folder_data(tmp_path)
    network = Network(one_stage().plan(one_stage().largest())).eval()
    facts = {name: getattr(manifest_of(Proof()), name) for name in BundleManifest.model_fields}
    for task in (Classification(), Counting()):
        assert PictureDeliverable(network, task, ImageData(sets, data)).manifest(facts).task_name == task.name


def test_the_interface_is_the_plans() -> None:
    manifest = manifest_of(Proof())
    assert [(t.name, t.shape) for t in manifest.inputs] == [("input", ("batch", 3, 12, 12))]
    assert [(t.name, t.shape) for t in manifest.outputs] == [("logits", ("batch", 3))]


@pytest.mark.parametrize("content", [b"a modem", b"a model!", b""])
def test_a_damaged_model_is_named(content: bytes, tmp_path: Path) -> None:
    written(tmp_path, manifest_of(Proof()))
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.onnx: damaged, or of another export than manifest\.json"):
        load_export(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no exported model there"):
        load_export(tmp_path)
    written(tmp_path, manifest_of(Proof()))
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(UserError, match=r"model\.onnx: cannot be read \(No such file"):
        load_export(tmp_path)


def test_a_rejected_model_is_not_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="of a model that was rejected \\(it is wrong\\)"):
        load_export(written(tmp_path, manifest_of(Proof(problems=("it is wrong",)))))


def without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda data: {name: value for name, value in data.items() if name != key}


def with_value(value: object, *path: str | int) -> Callable[[dict[str, Any]], Any]:
    def change(data: dict[str, Any]) -> dict[str, Any]:
        *parents, last = path
        target: Any = data
        for parent in parents:
            target = target[parent]
        target[last] = value
        return data

    return change


def in_artefact(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda data: {**data, "artefacts": [change(data["artefacts"][0])]}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: [data], "holds no JSON object"),
        (without("labels"), "labels is missing"),
        (with_value(1, "schema_version"), "schema_version is 1"),
        (with_value(["ant", "bee"], "labels"), "2 labels for an output of shape"),
        (with_value(8, "preprocessing", "resolution"), "preprocessing to 8 x 8 for an input of shape"),
        (in_artefact(with_value("../../etc/passwd", "files", 0, "name")), "artefacts.0.files.0.name is"),
        (in_artefact(with_value("f" * 63, "files", 0, "sha256")), "artefacts.0.files.0.sha256 is"),
        (in_artefact(with_value(1.5, "proof", "accuracy", "top1")), "artefacts.0.proof.accuracy.top1 is 1.5"),
        (lambda data: {**data, "artefacts": data["artefacts"] * 2}, "two artefacts have a file of the same name"),
        (with_value("none", "recalibration"), "recalibration is"),
        (with_value(1, "artefact"), "unknown key 'artefact'; did you mean 'artefacts'?"),
    ],
)
def test_an_edited_manifest_is_refused(edit: Callable[[Any], Any], message: str, tmp_path: Path) -> None:
    accuracy = Accuracy(images=10, top1=0.5, interval=(0.2, 0.8), top1_pytorch=0.5, changed=0, difference=0.0)
    written(tmp_path, manifest_of(Proof(accuracy=accuracy)))
    data = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(edit(data)))
    with pytest.raises(UserError) as caught:
        load_export(tmp_path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/manifest.json: ")
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=200))
def test_no_content_crashes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("export")
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(UserError):
        load_export(folder)
