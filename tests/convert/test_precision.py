"""Models in fp16 and int8, looked at with onnx itself; what they compute is the runtimes' conformance suite's."""

import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from nasdeploy.blocks.inverted_residual import MBConv
from nasdeploy.convert.fast_export import quick_onnx
from nasdeploy.convert.precision import to_fp16, to_int8_of_random_ranges
from nasdeploy.nn.network import StaticBlock

BLOCK = MBConv(8, 16, 24, kernel_size=3, expand_ratio=4, stride=1, se=True, activation="swish")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return quick_onnx(StaticBlock(BLOCK), BLOCK.inputs, 2)


def io_types(content):
    graph = onnx.load_from_string(content).graph
    return [value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)]


def shapes(content):
    graph = onnx.load_from_string(content).graph
    return [[size.dim_value for size in value.type.tensor_type.shape.dim] for value in (*graph.input, *graph.output)]


def test_weights_in_fp16_take_half_the_room(model):
    half = onnx.load_from_string(to_fp16(model)).graph.initializer
    whole = onnx.load_from_string(model).graph.initializer
    assert {weight.data_type for weight in half} <= {TensorProto.FLOAT16, TensorProto.INT64}
    assert sum(numpy_helper.to_array(weight).nbytes for weight in half) == pytest.approx(
        sum(numpy_helper.to_array(weight).nbytes for weight in whole) / 2, rel=0.01
    )


def test_inputs_and_outputs_are_fp32_unless_they_need_not_be(model):
    assert io_types(to_fp16(model)) == [TensorProto.FLOAT] * 2
    assert io_types(to_fp16(model, keep_io_types=False)) == [TensorProto.FLOAT16] * 2
    assert shapes(to_fp16(model)) == shapes(model)


def test_every_convolution_is_quantised_per_channel(model):
    graph = onnx.load_from_string(to_int8_of_random_ranges(model, "onnxruntime")).graph
    made_by = {output: node for node in graph.node for output in node.output}
    weights = {weight.name: weight for weight in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 6, "expand, depthwise, two of squeeze-and-excitation, project, shortcut"
    for node in convolutions:
        assert made_by[node.input[0]].op_type == "DequantizeLinear"
        dequantised = made_by[node.input[1]]
        assert weights[dequantised.input[0]].data_type == TensorProto.INT8
        assert numpy_helper.to_array(weights[dequantised.input[1]]).shape == (weights[dequantised.input[0]].dims[0],)


def test_int8_keeps_the_interface_and_leaves_nothing_behind(model, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    quantised = to_int8_of_random_ranges(model, "onnxruntime")
    assert (io_types(quantised), shapes(quantised)) == (io_types(model), shapes(model))
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_equal_models_give_equal_bytes(model):
    assert to_fp16(model) == to_fp16(model)
    assert to_int8_of_random_ranges(model, "onnxruntime") == to_int8_of_random_ranges(model, "onnxruntime")
