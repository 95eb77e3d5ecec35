"""What every runtime must do, on a small graph whose result NumPy gives."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from nasdeploy.errors import UserError
from nasdeploy.runtimes import RUNTIMES, runtime_of
from nasdeploy.runtimes.device import Device

WEIGHT = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
BIAS = np.array([0.5, -0.5, 0.0, 1.0], dtype=np.float32)


def model(batch: int | str) -> bytes:
    """`logits = relu(input @ WEIGHT + BIAS)` and `doubled = logits + logits`."""
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["input", "weight", "bias"], ["sum"]),
            helper.make_node("Relu", ["sum"], ["logits"]),
            helper.make_node("Add", ["logits", "logits"], ["doubled"]),
        ],
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 6])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 4]) for name in ("logits", "doubled")],
        [numpy_helper.from_array(WEIGHT, "weight"), numpy_helper.from_array(BIAS, "bias")],
    )
    opsets = [helper.make_opsetid("", 20)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()


@pytest.fixture(params=sorted(RUNTIMES))
def device(request):
    missing = RUNTIMES[request.param].missing()
    if missing:
        pytest.skip(f"{request.param} is not installed: {missing}")
    return Device(name="here", runtime=request.param)


def images(batch):
    return np.random.default_rng(1).standard_normal((batch, 6)).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 5])
def test_result_is_numpys_for_any_batch(device, batch):
    session = runtime_of(device).open(model("batch"), device)
    x = images(batch)
    logits, doubled = session.run({"input": x})
    expected = np.maximum(x @ WEIGHT + BIAS, 0)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(doubled, 2 * expected, rtol=1e-5, atol=1e-6)


def test_model_can_be_a_file(device, tmp_path):
    file = tmp_path / "model.onnx"
    file.write_bytes(model("batch"))
    from_file = runtime_of(device).open(file, device).run({"input": images(2)})
    from_bytes = runtime_of(device).open(model("batch"), device).run({"input": images(2)})
    np.testing.assert_array_equal(from_file[0], from_bytes[0])


def test_dynamic_batch_is_the_devices(device):
    four = device.model_copy(update={"batch": 4})
    assert dict(runtime_of(four).open(model("batch"), four).inputs) == {"input": (4, 6)}
    assert dict(runtime_of(device).open(model("batch"), device).inputs) == {"input": (1, 6)}
    assert dict(runtime_of(device).open(model(3), device).inputs) == {"input": (3, 6)}


def test_timed_calls_leave_results_alone(device):
    session = runtime_of(device).open(model("batch"), device)
    before = session.run({"input": images(1)})
    for _ in range(3):
        session.call()
    np.testing.assert_array_equal(session.run({"input": images(1)})[0], before[0])
    session.close()


def test_threads_do_not_change_the_result(device):
    two = device.model_copy(update={"threads": 2})
    one = runtime_of(device).open(model("batch"), device).run({"input": images(3)})
    both = runtime_of(two).open(model("batch"), two).run({"input": images(3)})
    np.testing.assert_allclose(both[0], one[0], rtol=1e-6)


@pytest.mark.parametrize("content", [b"", b"no model", model(1)[:100]])
def test_damaged_model_is_a_user_error(device, tmp_path, content):
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.onnx"):
        runtime_of(device).open(file, device)
    with pytest.raises(UserError, match="export it again"):
        runtime_of(device).open(content, device)


def test_missing_file_is_a_user_error(device, tmp_path):
    with pytest.raises(UserError, match=r"absent\.onnx"):
        runtime_of(device).open(tmp_path / "absent.onnx", device)


def test_version_is_a_version(device):
    assert runtime_of(device).version()[0].isdigit()


def test_an_option_that_the_runtime_refuses_is_named(device):
    refusing = device.model_copy(update={"options": {"": "1"}})
    with pytest.raises(UserError, match="device here: option '' is refused"):
        runtime_of(refusing).open(model("batch"), refusing)
