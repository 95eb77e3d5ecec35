"""Each stage of the proof against files that are wrong in its way."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from nasdeploy.convert import to_onnx
from nasdeploy.core.progress import Progress
from nasdeploy.data.images import readable
from nasdeploy.data.settings import Preprocessing
from nasdeploy.exporting.deliverables import ImageReference
from nasdeploy.exporting.footprint import measure_footprint
from nasdeploy.exporting.formats import FORMATS, ExportJob, plan_jobs
from nasdeploy.exporting.proof import ExportTarget, Gate
from nasdeploy.exporting.record import TOLERANCE, Disagreement, ModelLatency, Proof, difference
from nasdeploy.latency.profile import reference_model
from nasdeploy.runtimes.onnxruntime import _OnnxSession
from nasdeploy.supernet.evaluate import calibrate
from nasdeploy.supernet.supernet import extract
from nasdeploy.tasks.file_scores import wilson
from tests.exporting.models import DEVICE, QUICK, folder_data, jobs, latency_table, supernet_of
from tests.small_spaces import one_stage

Change = Callable[[onnx.ModelProto], None]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> ImageReference:
    space = one_stage()
    data, sets = folder_data(tmp_path_factory.mktemp("images"))
    network = extract(supernet_of(space), space.named["t0"]).eval()
    return ImageReference(network, Preprocessing.from_settings(data, 12), sets.test, data)


@pytest.fixture(scope="module")
def good(reference: ImageReference) -> bytes:
    return to_onnx(reference.network)


def proof_of(content: bytes, reference: ImageReference, folder: Path, target: ExportTarget | None = None) -> Proof:
    path = folder / "model.onnx"
    path.write_bytes(content)
    gate = Gate(reference, target or ExportTarget(DEVICE, None, QUICK), Progress(quiet=True))
    return gate.prove({"network": path}, jobs()[0])


def changed(content: bytes, change: Change) -> bytes:
    model = onnx.load_from_string(content)
    change(model)
    return model.SerializeToString()


def test_a_good_file_passes(good: bytes, reference: ImageReference, tmp_path: Path) -> None:
    proof = proof_of(good, reference, tmp_path)
    assert proof.problems == ()
    assert proof.agreement is not None and proof.agreement.difference < 1e-5
    assert proof.accuracy is not None and proof.accuracy.images == 75
    assert proof.latency is not None and proof.latency.runs == 2


def test_what_lies_in_the_current_folder_is_not_run(
    good: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("inspect.py", "numpy.py", "onnxruntime.py"):
        (tmp_path / name).write_text("raise SystemExit('a file of the user')")
    (tmp_path / "model.onnx").write_bytes(good)
    monkeypatch.chdir(tmp_path)
    assert measure_footprint("onnx", [Path("model.onnx")], DEVICE).load_s > 0


# -- form


def static_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def other_output_name(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        for place, name in enumerate(node.output):
            if name == "logits":
                node.output[place] = "scores"
    model.graph.output[0].name = "scores"


def other_opset(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def half_precision_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    model.graph.input[0].name = "half"
    model.graph.node.insert(0, helper.make_node("Cast", ["half"], ["input"], to=TensorProto.FLOAT))


def second_output(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 12, 12]))


def dangling(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "nowhere"


def rescaling(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "scales"))
    first = model.graph.node[0]
    place = list(first.input).index("input")
    first.input[place] = "resized"
    model.graph.node.insert(0, helper.make_node("Resize", ["input", "", "scales"], ["resized"]))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (static_batch, "input: input FLOAT [1, 3, 12, 12]; expected input FLOAT [batch, 3, 12, 12]"),
        (other_output_name, "output: scores FLOAT [batch, 3]; expected logits FLOAT [batch, 3]"),
        (other_opset, "operators: opsets {'': 14, 'com.microsoft': 1}, expected only ONNX's own up to version 20"),
        (half_precision_input, "input: half FLOAT16"),
        (second_output, "output: logits FLOAT [batch, 3], input FLOAT"),
        (dangling, "onnx.checker: "),
        (rescaling, "operators: Resize rescales the image"),
    ],
)
def test_a_file_of_wrong_form_is_not_run(
    change: Change, problem: str, good: bytes, reference: ImageReference, tmp_path: Path
) -> None:
    proof = proof_of(changed(good, change), reference, tmp_path)
    assert proof.problems[0].startswith(problem)
    assert not any("\n" in text for text in proof.problems)
    assert (proof.agreement, proof.accuracy, proof.latency) == (None, None, None)


@pytest.mark.parametrize("content", [b"", b"junk", b"\x08\x0a" * 1000])
def test_what_is_no_model_is_refused(content: bytes, reference: ImageReference, tmp_path: Path) -> None:
    (problem,) = proof_of(content, reference, tmp_path).problems
    assert problem.startswith("onnx.checker: ")


def test_a_cut_off_file_is_refused(good: bytes, reference: ImageReference, tmp_path: Path) -> None:
    assert proof_of(good[: len(good) // 2], reference, tmp_path).problems


def test_weights_in_another_file_are_refused(good: bytes, reference: ImageReference, tmp_path: Path) -> None:
    model = onnx.load_from_string(good)
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert proof_of(path.read_bytes(), reference, tmp_path).problems == ("weights lie in another file",)


# -- agreement


def perturbed_weight(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.2), tensor.name))


def fixed_inside(model: onnx.ModelProto) -> None:
    """Looks dynamic, but only computes batches of one."""
    for node in model.graph.node:
        for place, name in enumerate(node.output):
            if name == "logits":
                node.output[place] = "any"
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 3]), "one_by_three"))
    model.graph.node.append(helper.make_node("Reshape", ["any", "one_by_three"], ["logits"]))


def not_a_number(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            broken = numpy_helper.to_array(tensor) * np.float32(np.nan)
            tensor.CopyFrom(numpy_helper.from_array(broken, tensor.name))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (perturbed_weight, "logits in a batch of 1 differ from PyTorch's by up to"),
        (not_a_number, "logits in a batch of 1 differ from PyTorch's by up to nan"),
        (fixed_inside, "a batch of 2 stops the runtime"),
    ],
)
def test_a_file_that_computes_something_else_is_refused(
    change: Change, problem: str, good: bytes, reference: ImageReference, tmp_path: Path
) -> None:
    proof = proof_of(changed(good, change), reference, tmp_path)
    assert len(proof.problems) == 1
    assert proof.problems[0].startswith(problem)
    assert "\n" not in proof.problems[0]
    assert (proof.accuracy, proof.latency) == (None, None)


def test_wrong_statistics_are_refused(good: bytes, reference: ImageReference, tmp_path: Path) -> None:
    space = one_stage()
    network = extract(supernet_of(space), space.named["t0"])
    calibrate(network, [reference.prepared(range(20))])
    (problem,) = proof_of(good, replace(reference, network=network), tmp_path).problems
    assert problem.startswith("logits in a batch of 1 differ")


# -- accuracy


@pytest.mark.parametrize("change", [{"crop": 9}, {"resize": 8}, {"mean": (0.485, 0.456, 0.407)}, {"std": (1, 1, 1)}])
def test_preprocessing_that_is_not_evaluations_is_refused(
    change: dict[str, object], good: bytes, reference: ImageReference, tmp_path: Path
) -> None:
    preprocessing = reference.preprocessing.model_copy(update=change)
    proof = proof_of(good, replace(reference, preprocessing=preprocessing), tmp_path)
    assert proof.agreement is not None
    assert proof.problems[0].startswith("inputs made by the manifest's preprocessing differ from PyTorch's by up to")


def test_an_image_that_disagrees_is_counted(
    good: bytes, reference: ImageReference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agreement on a sample is not enough: here one of the last images goes wrong."""
    original = _OnnxSession.run

    def wrong(self: _OnnxSession, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        (logits,) = original(self, feeds)
        if len(logits) == 75 % 32:
            logits[-1] = np.roll(logits[-1], 1)
        return [logits]

    monkeypatch.setattr(_OnnxSession, "run", wrong)
    proof = proof_of(good, reference, tmp_path)
    assert proof.agreement is not None
    assert proof.problems[0].startswith("logits of 1 of 75 test images, of which 1 get another class, differ")


def test_unreadable_images_are_left_out_of_both(
    good: bytes, reference: ImageReference, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    data, sets = folder_data(tmp_path / "images")
    for index in (3, 70):
        sets.test.path(index).write_bytes(b"")  # type: ignore[union-attr]
    data = data.model_copy(update={"on_unreadable": "skip"})
    left = readable(sets.test, data)
    proof = proof_of(good, replace(reference, images=left.images, data=data, unreadable=left.unreadable), tmp_path)
    assert proof.problems == ()
    assert proof.accuracy is not None and (proof.accuracy.images, proof.accuracy.unreadable) == (73, 2)
    assert {str(warning.message).split(":")[0] for warning in recwarn} == {"left out"}


# -- latency


@pytest.mark.parametrize(("idle_ms", "gap_ms"), [(0.0, 100.0), (3.0, 3.0)])
def test_calls_back_to_back_and_after_gaps_and_what_was_done(
    idle_ms: float, gap_ms: float, good: bytes, reference: ImageReference, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(good)
    device = DEVICE.model_copy(update={"idle_ms": idle_ms, "batch": 3})
    target = ExportTarget(device, None, replace(QUICK, sustained_s=0.02))
    (job,) = plan_jobs(("onnx",), device)
    latency = Gate(reference, target, Progress(quiet=True)).prove({"network": path}, job).latency
    assert latency is not None and latency.after_gaps is not None and latency.throughput is not None
    assert (latency.after_gaps.gap_ms, latency.after_gaps.runs) == (gap_ms, 2)
    assert latency.on_device_ms == (latency.after_gaps.median_ms if idle_ms else latency.median_ms)
    assert latency.throughput.images % 3 == 0
    assert 0.02 <= latency.throughput.seconds < 5


def test_figures_of_earlier_versions_are_still_read() -> None:
    earlier = {"median_ms": 2.0, "p10_ms": 1.0, "p90_ms": 3.0, "p95_ms": 4.0, "runs": 5, "noisy": False}
    latency = ModelLatency.model_validate({**earlier, "predicted_ms": None})
    assert (latency.throughput, latency.after_gaps, latency.on_device_ms) == (None, None, 2.0)


def test_a_table_of_another_device_is_remarked(good: bytes, reference: ImageReference, tmp_path: Path) -> None:
    table = latency_table(one_stage(), 1e-4)
    other = table.conditions.model_copy(update={"fingerprint": replace(table.conditions.fingerprint, threads=8)})
    target = ExportTarget(DEVICE, table.model_copy(update={"conditions": other}), QUICK)
    latency = proof_of(good, reference, tmp_path, target).latency
    assert latency is not None
    assert latency.remarks == ("the latency table differs: threads: measured with 8, here 1",)
    assert latency.predicted_ms == pytest.approx(0.4)


def test_the_usual_median_is_that_of_a_machine_as_quiet_as_when_profiled(
    good: bytes, reference: ImageReference, tmp_path: Path
) -> None:
    """A table on whose networks medians were half again as long as undisturbed calls."""
    table = latency_table(one_stage(), 1e-4).model_copy(update={"median_ratio": 1.5})
    latency = proof_of(good, reference, tmp_path, ExportTarget(DEVICE, table, QUICK)).latency
    assert latency is not None
    assert latency.usual_ms == pytest.approx(1.5 * latency.p10_ms)
    # The table is of a machine on which the graph that is measured beside the file took a nanosecond.
    usual = {key: replace(one, reference=1e-9) for key, one in table.entries.items()}
    graph = partial(reference_model, one_stage(), DEVICE)
    slower = ExportTarget(DEVICE, table.model_copy(update={"steadied": 1.0, "entries": usual}), QUICK, graph)
    corrected = proof_of(good, reference, tmp_path, slower).latency
    assert corrected is not None and corrected.usual_ms is not None
    assert corrected.usual_ms < 1e-3 * corrected.p10_ms
    without = proof_of(good, reference, tmp_path, ExportTarget(DEVICE, None, QUICK)).latency
    assert without is not None and without.usual_ms is None


# -- measures


def test_difference_is_relative_to_large_rows_and_absolute_for_small_ones() -> None:
    expected = np.array([[0.1, -0.5], [100.0, -200.0]])
    np.testing.assert_allclose(difference(expected, expected + 0.02), [0.02, 0.0001])
    with pytest.raises(Disagreement, match=r"output of shape \[2, 3\], expected \[2, 2\]"):
        difference(expected, np.zeros((2, 3)))


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.sampled_from([-1, 1]), st.sampled_from([-1, 1]))
def test_within_the_tolerance_only_ties_change_class(a: float, b: float, first: int, second: int) -> None:
    expected = np.array([[a, b]])
    room = TOLERANCE * max(1.0, abs(a), abs(b))
    found = expected + np.array([[first, second]]) * room * 0.999
    if found.argmax() != expected.argmax():
        assert abs(a - b) <= 2 * room


def test_interval_is_wilsons() -> None:
    low, high = wilson(90, 100)  # Agresti and Coull (1998): centre (p + z^2 / 2n) / (1 + z^2 / n).
    z2 = 1.959963984540054**2
    assert (low + high) / 2 == pytest.approx((0.9 + z2 / 200) / (1 + z2 / 100))
    assert wilson(0, 10)[0] == 0.0
    assert wilson(10, 10)[1] == 1.0


@pytest.mark.parametrize(("name", "computed_in"), [("tensorrt-rtx", "fp32"), ("tensorrt", "int8")])
def test_weights_in_int8_alone_are_not_computed_with_in_int8(
    name: str, computed_in: str, reference: ImageReference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT for RTX has no more: they are expanded before anything is computed."""
    monkeypatch.setattr(Gate, "_compared", lambda *given: Proof(computed_in="int8"))
    monkeypatch.setattr(type(FORMATS[name]), "inspect", lambda *given: [])
    job = ExportJob(name, FORMATS[name], "int8", DEVICE)
    gate, files = (
        Gate(reference, ExportTarget(DEVICE, None, QUICK), Progress(quiet=True)),
        {"network": tmp_path / "model"},
    )
    assert gate.prove_source(files, files, job).computed_in == computed_in
