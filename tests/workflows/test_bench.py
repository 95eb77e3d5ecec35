"""Finished models side by side."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nasdeploy.cli import models as command
from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.latency.protocol import MeasurementProtocol, Rounds, SustainedCalls
from nasdeploy.latency.runners.processes import open_processes
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.ncnn import read
from nasdeploy.workflows import models as step
from nasdeploy.workflows.models import bench, contender
from tests.conformance.runtime_models import small_bytes
from tests.latency.tables import timing

CPU = Device(name="cpu", runtime="onnxruntime", batch=2)
HASTY = MeasurementProtocol(
    networks=Rounds(group=1, visits=2),
    warmup=1,
    kept=2,
    shortest_run_s=1e-6,
    shortest_group_s=0,
    sustained_s=0.01,
    retries=0,
)


@pytest.fixture(autouse=True)
def _two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "open_processes", partial(open_processes, number=2))


def written(path: Path, size: int = 4, operator: str = "Relu", kind: int = TensorProto.FLOAT) -> Path:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "weight"], ["sum"]), helper.make_node(operator, ["sum"], ["output"])],
        "small",
        [helper.make_tensor_value_info("input", kind, ["batch", size])],
        [helper.make_tensor_value_info("output", kind, ["batch", size])],
        [numpy_helper.from_array(np.ones((size, size), np.float32), "weight")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_models_are_measured_in_turn_and_given_in_order(tmp_path: Path) -> None:
    names = [str(written(tmp_path / f"{size}.onnx", size)) for size in (900, 4)]
    slow, fast = bench([*names, names[0]], CPU, Progress(quiet=True), protocol=HASTY)
    assert [slow.model, fast.model] == names
    assert slow.megabytes == pytest.approx(Path(names[0]).stat().st_size / 1e6)
    assert slow.median_ms > fast.median_ms
    for result in (slow, fast):
        assert result.p10_ms <= result.median_ms <= result.p90_ms <= result.p95_ms
        assert result.throughput_s is not None and 2 * 0.01 <= result.throughput_s < 5
        assert result.images_per_s is not None and result.images_per_s > 0
        assert list(result.processes_ms) == sorted(result.processes_ms)
        assert len(result.processes_ms) == 2
        assert result.after_gaps is None


def test_throughput_is_of_the_devices_batch_and_gaps_are_measured_besides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a runner that plays calls of 1 ms, of which 600 a second are done, and of 3 ms after gaps."""
    asked = []

    class Played:
        def __enter__(self) -> "Played":
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def measure(self, models, rounds, protocol, *, on_visits, reference=None):  # type: ignore[no-untyped-def]
            asked.append((rounds.idle_s, protocol.sustained_s))
            seconds = 3e-3 if rounds.idle_s else 1e-3
            done = replace(timing(seconds), throughput=SustainedCalls(1200, 2.0), processes=(0.9 * seconds, seconds))
            yield dict.fromkeys(models, done)

    monkeypatch.setattr(step, "open_processes", lambda device, say: Played())
    path = str(written(tmp_path / "model.onnx"))
    idle = CPU.model_copy(update={"idle_ms": 40.0})
    for device, given, gap_ms in ((CPU, 100.0, 100.0), (idle, None, 40.0), (idle, 0.0, 0.0)):
        (result,) = bench([path], device, Progress(quiet=True), gap_ms=given, protocol=HASTY)
        assert (result.median_ms, result.images_per_s, result.throughput_s) == (1.0, 1200.0, 2.0)
        after = result.after_gaps and (result.after_gaps.gap_ms, result.after_gaps.median_ms)
        assert after == ((gap_ms, 3.0) if gap_ms else None)
    assert asked == [(0, 0.01), (0.1, 0), (0, 0.01), (0.04, 0), (0, 0.01)]


def test_models_by_name_have_their_libraries_size() -> None:
    """2,542,856 parameters (torchvision's documentation of mobilenet_v3_small), and statistics of norms."""
    small = contender("torchvision:mobilenet_v3_small", CPU)
    assert small.bytes / 4 == pytest.approx(2_542_856, rel=0.02)
    model = onnx.load_from_string(small.make())  # type: ignore[arg-type]
    assert [size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim] == [2, 3, 224, 224]
    other = onnx.load_from_string(contender("timm:test_vit.r160_in1k", CPU).make())  # type: ignore[arg-type]
    assert [size.dim_value for size in other.graph.input[0].type.tensor_type.shape.dim] == [2, 3, 160, 160]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.onnx", "nowhere.onnx: no such file or bundle; a model by name is torchvision:NAME or timm:NAME"),
        ("torchvision:mobilenet_v3_smal", "torchvision has no model 'mobilenet_v3_smal' for images; did you mean"),
        ("torchvision:raft_small", "torchvision has no model 'raft_small' for images"),
        ("timm:resnet18x", "timm has no model 'resnet18x'; did you mean"),
        (".", ".: no exported model there"),
    ],
)
def test_what_is_not_there_is_named(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        bench([name], CPU, Progress(quiet=True), protocol=HASTY)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_what_the_runtime_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    cases = {
        tmp_path / "junk.onnx": "ONNX Runtime cannot load it",
        written(tmp_path / "odd.onnx", operator="Frobnicate"): "Frobnicate",
        written(tmp_path / "text.onnx", kind=TensorProto.STRING): "cannot",
    }
    for path, reason in cases.items():
        with pytest.raises(UserError) as caught:
            bench([str(path)], CPU, Progress(quiet=True), protocol=HASTY)
        assert str(caught.value).startswith(f"{path}: device cpu cannot run it: ")
        assert reason in str(caught.value)


def test_a_file_is_nothing_for_a_device_that_runs_modules(tmp_path: Path) -> None:
    path = written(tmp_path / "model.onnx")
    with pytest.raises(UserError, match="device cpu-torch runs PyTorch modules, not files; use another device"):
        bench([str(path)], Device(name="cpu-torch", runtime="torch"), Progress(quiet=True), protocol=HASTY)


def test_a_model_in_two_files_is_measured_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ncnn's, whose weights lie beside its graph."""
    device = Device(name="cpu-ncnn", runtime="ncnn")
    model = read(small_bytes("ncnn"))
    (tmp_path / "model.param").write_bytes(model.param)
    (tmp_path / "model.bin").write_bytes(model.bin)
    files = SimpleNamespace(name="model.param")
    artefact = SimpleNamespace(format="ncnn", precision="fp32", file=files, bytes=len(model.param) + len(model.bin))
    monkeypatch.setattr(step, "load_bundle", lambda folder: SimpleNamespace(artefacts=[artefact]))
    found = contender(str(tmp_path), device)
    assert found.make() == small_bytes("ncnn")
    assert found.bytes == artefact.bytes
    (tmp_path / "model.param").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"model\.param: ncnn cannot load it"):
        found.make()


def test_the_command_prints_a_table_or_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(step.bench, "__kwdefaults__", {"protocol": HASTY})
    # The names are long, and columns would be left out.
    monkeypatch.setenv("COLUMNS", "400")
    names = [str(written(tmp_path / f"{size}.onnx", size)) for size in (9, 4)]
    command.bench(names, as_json=True, quiet=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["device"], found["batch"], [row["model"] for row in found["models"]]) == ("cpu", 1, names)
    command.bench(names, quiet=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "device cpu (onnxruntime), batch 1, threads 1; latency in ms"
    assert lines[1].split() == ["model", "MB", "median", "p10", "p90", "p95", "processes", "images/s"]
    assert [line.split()[0] for line in lines[2:4]] == names
    assert lines[-1].startswith("images/s: done back to back in 0.0")
    command.bench(names, gap_ms=1.0, quiet=True)
    assert capsys.readouterr().out.splitlines()[1].split()[-5:] == ["images/s", "after", "1", "ms", "p95"]
