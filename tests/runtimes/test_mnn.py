"""What of MNN the conformance suite cannot ask: its options, what it prints, what it reaches for, and damaged files."""

import platform
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch

from nasdeploy.convert import mnn, model_for
from nasdeploy.convert.mnn import to_mnn
from nasdeploy.core.errors import ConversionRefused, UserError
from nasdeploy.core.progress import Progress
from nasdeploy.exporting.formats import FORMATS
from nasdeploy.nn.network import Network
from nasdeploy.runtimes import RUNTIMES, runtime_of
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.mnn_file import FlatTable, MnnTensor, read_mnn
from nasdeploy.workflows.models import bench
from tests.conformance.runtime_models import BIAS, WEIGHT, mnn_bytes, small_onnx, unknown_operator
from tests.conformance.test_formats import DIGITS, network_of
from tests.exporting.models import interface
from tests.sealed import GUARD
from tests.workflows.test_bench import HASTY

pytestmark = pytest.mark.skipif(RUNTIMES["mnn"].missing() is not None, reason="MNN is not installed")
DEVICE = Device(name="here", runtime="mnn")
FORM = FORMATS["mnn"]


@cache
def network() -> Network:
    return network_of(DIGITS, DIGITS.smallest())


@cache
def content() -> bytes:
    """The smallest digits network, as it is measured."""
    made = model_for(network(), [network().plan.only.inputs[0][1]], DEVICE)
    assert isinstance(made, bytes)
    return made


def opened(made: bytes, **changes: object):
    device = DEVICE.model_copy(update=changes)
    return runtime_of(device).open(made, device)


def test_a_file_says_what_it_takes_and_gives_in_the_models_order():
    found = read_mnn(mnn_bytes(small_onnx("batch")))
    assert found.inputs == (MnnTensor("input", (1, 6), "float32"),)
    assert found.outputs == ("logits", "doubled")


def test_equal_models_give_equal_bytes():
    assert to_mnn(small_onnx(1), half=False) == to_mnn(small_onnx(1), half=False)


def test_weights_in_fp16_take_half_the_room():
    onnx = mnn_source()
    assert len(to_mnn(onnx, half=True)) < 0.6 * len(to_mnn(onnx, half=False))


def test_weights_in_fp16_are_the_nearest_numbers():
    """MNN alone takes the next smaller ones."""
    session = opened(to_mnn(small_onnx("batch"), half=True), precision="fp16")
    x = np.random.default_rng(2).standard_normal((3, 6)).astype(np.float32)
    expected = np.maximum(x @ WEIGHT.astype(np.float16).astype(np.float32) + BIAS, 0)
    np.testing.assert_allclose(session.run({"input": x})[0], expected, rtol=1e-5, atol=1e-6)


def mnn_source() -> bytes:
    from nasdeploy.convert import quick_onnx

    return quick_onnx(network(), [network().plan.only.inputs[0][1]], 1)


def test_an_operator_that_the_converter_lacks_is_named():
    with pytest.raises(ConversionRefused, match=r"^MNN does not convert it \(it has no operator Unheard\)$"):
        to_mnn(unknown_operator("onnx"), half=False)
    with pytest.raises(ConversionRefused, match=r"^MNN does not convert it \(.*Invalid ONNX Model:it\)$"):
        to_mnn(b"", half=False)


_FAKE = """
import json, os, shutil, sys
for line in sys.stdin:
    source, begun, ended, words = json.loads(line)
    open(begun, "w").close()
    made = words[words.index("--MNNModel") + 1]
    shutil.copyfile("made.mnn", made)
    if os.path.getsize(source) == 5:
        os.abort()
    os.rename(begun, ended)
"""


def test_a_model_that_the_converter_crashes_at_costs_no_other(tmp_path, monkeypatch):
    (tmp_path / "made.mnn").write_bytes(content())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mnn, "_COMMAND", (sys.executable, "-c", _FAKE))
    found = mnn.to_mnn_each([b"a", b"crash", b"bc", b"crash", b"crash"], half=False)
    assert [isinstance(each, bytes) for each in found] == [True, False, True, False, False]
    assert str(found[4]) == "MNN does not convert it (its converter crashes)"


def test_a_converter_that_does_not_start_is_one_line(monkeypatch):
    monkeypatch.setattr(mnn, "_COMMAND", (sys.executable, "-c", "raise SystemExit(1)"))
    with pytest.raises(UserError, match=r"^MNN's converter cannot be started; install MNN again: pip install --force"):
        to_mnn(small_onnx(1), half=False)


def test_models_are_converted_in_their_order_whatever_their_number():
    sources = [mnn_source(), small_onnx(1), mnn_source(), b""]
    found = mnn.to_mnn_each(iter(sources), half=False)
    assert found[:3] == [to_mnn(source, half=False) for source in sources[:3]]
    assert isinstance(found[3], ConversionRefused)
    assert mnn.to_mnn_each([], half=False) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"powr": "low"}, "device here: option 'powr' is unknown to mnn; did you mean 'power'?"),
        ({"power": "max"}, "device here: option 'power' is \"max\"; write one of normal, low, high"),
    ],
)
def test_wrong_options_are_one_line(options, message):
    with pytest.raises(UserError) as caught:
        opened(content(), options=options)
    assert str(caught.value) == message


def test_options_are_mnns():
    session = opened(content(), options={"power": "high", "memory": "low"}, precision="fp16")
    session.call()
    feeds = {name: np.ones(shape, np.float32) for name, shape in session.inputs.items()}
    (plain,) = opened(content(), precision="fp16").run(feeds)[:1]
    np.testing.assert_allclose(session.run(feeds)[0], plain, rtol=1e-2)
    session.close()


def test_fp16_is_computed_where_an_arm_processor_has_it(monkeypatch, tmp_path):
    runtime = RUNTIMES["mnn"]
    cpuinfo = tmp_path / "cpuinfo"
    monkeypatch.setattr("nasdeploy.runtimes.mnn._CPUINFO", cpuinfo)
    found = []
    for machine, features in (("aarch64", "fp asimd fphp asimdhp"), ("aarch64", "fp asimd"), ("x86_64", "asimdhp")):
        monkeypatch.setattr(platform, "machine", lambda machine=machine: machine)
        cpuinfo.write_text(f"processor : 0\nFeatures : {features}\n")
        found.append(runtime.computes("fp16"))
    assert found == ["fp16", "fp32", "fp32"]
    assert runtime.computes("fp32") == "fp32"


def test_files_are_measured(tmp_path):
    file = tmp_path / "model.mnn"
    file.write_bytes(content())
    (result,) = bench([str(file)], DEVICE, Progress(quiet=True), protocol=HASTY)
    assert result.median_ms > 0


# -- what it does besides

_ACTS = """
import sys
from pathlib import Path
import numpy as np
from nasdeploy.exporting.bundle.predict import _mnn
from nasdeploy.runtimes.mnn import Mnn, printed_apart
from nasdeploy.runtimes.runtime import LocalTarget
GUARD
with printed_apart():
    import _tools
    words = ["-f", "ONNX", "--modelFile", "model.onnx", "--MNNModel", "model.mnn", "--bizCode", "nasdeploy"]
    _tools.mnnconvert(["mnnconvert", *words])
session = Mnn().open(Path("model.mnn"), LocalTarget("here", "mnn"))
session.call()
session.run({"input": np.zeros((3, 6), np.float32)})
session.close()
assert _mnn(Path("model.mnn"))(np.zeros((2, 6), np.float32)).shape == (2, 4)
assert not [name for name in sys.modules if name.startswith("MNN.tools")]
print("done")
"""


def test_it_prints_nothing_opens_no_socket_and_starts_no_process(tmp_path):
    """Converting, opening, running, and a bundle's program: in a process that the kernel would kill if it tried."""
    (tmp_path / "model.onnx").write_bytes(small_onnx("batch"))
    code = _ACTS.replace("GUARD", GUARD)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


# -- damaged and hostile files


def changed(field_of: "object", value: int, size: int = 4) -> bytes:
    made = bytearray(content())
    at = field_of(FlatTable.root(content()))
    made[at : at + size] = value.to_bytes(size, "little", signed=True)
    return bytes(made)


def operator(net: FlatTable, kind: int) -> FlatTable:
    return next(each for each in net.tables(3) if each.integer(5) == kind)


def layer(net: FlatTable) -> FlatTable:
    return operator(net, 12).table(2)


@pytest.mark.parametrize(
    ("field_of", "value", "message"),
    [
        (
            lambda net: layer(net).table(0).place(10),
            4096,
            r"a convolution has \d+ weights and \d+ biases, and reads \d+ ",
        ),
        (lambda net: layer(net).table(0).place(10), -1, "a convolution has no such shape"),
        (lambda net: operator(net, 11).place(5), 12, "has the parameters of another"),
        (lambda net: operator(net, 11).place(5), 1 << 20, r"is of a type, 1048576, that is not known here"),
        (lambda net: operator(net, 12).place(4), 1 << 30, "it does not hold together"),
        (lambda net: net.place(3), 0x7FFFFFF0, "it does not hold together"),
        (lambda net: net.place(7), 0, "it "),
    ],
)
def test_what_does_not_fit_is_said_before_mnn_opens_it(field_of, value, message, tmp_path):
    made = changed(field_of, value)
    with pytest.raises(UserError, match=rf"^the model: MNN cannot load it \(.*{message}.*\); export it again$"):
        opened(made)
    file = tmp_path / "model.mnn"
    file.write_bytes(made)
    (problem, *_) = FORM.inspect(file, *interface(network().plan))
    assert problem.startswith("MNN: ") and "\n" not in problem


def test_what_ends_the_process_that_runs_it_is_found_by_another(tmp_path, monkeypatch):
    made = to_mnn(named_source(), half=False)
    file = tmp_path / "model.mnn"
    file.write_bytes(made)
    assert FORM.inspect(file, *interface(network().plan)) == []
    ends = subprocess.CompletedProcess([], -11, stdout="", stderr="")
    monkeypatch.setattr("nasdeploy.exporting.formats.format.subprocess.run", lambda *a, **k: ends)
    found = FORM.inspect(file, *interface(network().plan))
    assert found == ["MNN: the process that ran it ended by signal 11"]


def named_source() -> bytes:
    """The network's ONNX, with the names of a delivered model."""
    import onnx

    model = onnx.load_from_string(mnn_source())
    given, result = model.graph.input[0].name, model.graph.output[0].name
    for node in model.graph.node:
        node.input[:] = ["input" if name == given else name for name in node.input]
        node.output[:] = ["logits" if name == result else name for name in node.output]
    model.graph.input[0].name, model.graph.output[0].name = "input", "logits"
    return bytes(model.SerializeToString())


def test_inputs_are_copied_and_outputs_are_read():
    """As an app sees it: what is given may be changed while the session is open, and results stay."""
    session = opened(mnn_bytes(small_onnx("batch")))
    x = np.ones((2, 6), np.float32)
    (first, _) = session.run({"input": x})
    x[:] = 7
    (second, _) = session.run({"input": np.ones((2, 6), np.float32)})
    np.testing.assert_array_equal(first, second)


def test_integers_are_given_as_they_are_in_pytorch():
    from onnx import TensorProto, helper, numpy_helper

    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input"], ["y"], axis=0)],
        "small",
        [helper.make_tensor_value_info("input", TensorProto.INT64, [2, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 5, 3])],
        [numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = opened(to_mnn(bytes(model.SerializeToString()), half=False), batch=2)
    places = torch.randint(4, (2, 5)).numpy()
    np.testing.assert_array_equal(session.run({"input": places})[0], table[places])
    session.call()


def test_a_shape_that_it_cannot_run_is_an_error_without_a_word(capfd):
    session = opened(mnn_bytes(small_onnx("batch")))
    with pytest.raises(RuntimeError, match="MNN cannot run it, error"):
        session.run({"input": np.zeros((1, 4), np.float32)})
    assert capfd.readouterr().out == ""
