"""The versions that files state are the lowest in which they mean the same."""

import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from nasdeploy.blocks.heads import PoolHead
from nasdeploy.blocks.inverted_residual import MBConv
from nasdeploy.convert.fast_export import quick_onnx
from nasdeploy.convert.precision import to_fp16, to_int8_of_random_ranges
from nasdeploy.convert.versions import lowest
from nasdeploy.nn.network import StaticBlock
from tests.conformance.runtime_models import onnx_bytes

BLOCKS = {
    "swish": MBConv(8, 16, 24, kernel_size=3, expand_ratio=4, stride=2, se=True, activation="swish"),
    "relu": MBConv(8, 16, 16, kernel_size=3, expand_ratio=1, stride=1, se=False, activation="relu"),
    "hswish": PoolHead(4, 16, 32, expand_ratio=4, classes=10, activation="hswish"),
}


def stated(content: bytes) -> tuple[dict[str, int], int]:
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    return {entry.domain: entry.version for entry in model.opset_import}, model.ir_version


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_measured_models_state_the_lowest_in_every_precision(block: MBConv | PoolHead) -> None:
    torch.manual_seed(0)
    model = quick_onnx(StaticBlock(block), block.inputs, 2)
    for content in (
        model,
        to_fp16(model),
        *(to_int8_of_random_ranges(model, name) for name in ("openvino", "tensorrt")),
    ):
        assert stated(content) in [({"": 13}, 7), ({"": 14}, 7)]


def model_of(opset: int, *nodes: onnx.NodeProto, weights: tuple[onnx.TensorProto, ...] = ()) -> onnx.ModelProto:
    model = onnx.load_from_string(onnx_bytes(nodes, {"x": [2, 4, 4, 4]}, {"y": list("abcd")}, weights))
    model.opset_import[0].version = opset
    return model


AXES = numpy_helper.from_array(torch.tensor([-1, -2]).numpy(), "axes")


@pytest.mark.parametrize(
    ("opset", "nodes", "expected"),
    [
        (20, [helper.make_node("Relu", ["x"], ["y"])], (14, 7)),
        (20, [helper.make_node("Sigmoid", ["x"], ["y"])], (13, 7)),
        (20, [helper.make_node("GlobalAveragePool", ["x"], ["y"])], (13, 7)),
        (20, [helper.make_node("Gelu", ["x"], ["y"])], (20, 9)),
        # In 19 it got types, so that a file of 20 cannot be one of 18.
        (20, [helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2])], (19, 9)),
        (18, [helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2])], (13, 7)),
        (18, [helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=1)], (13, 7)),
        (18, [helper.make_node("ReduceMean", ["x", "axes"], ["z"]), helper.make_node("Mish", ["z"], ["y"])], (18, 8)),
    ],
)
def test_an_operator_keeps_its_definition(opset: int, nodes: list[onnx.NodeProto], expected: tuple[int, int]) -> None:
    means = any(node.op_type == "ReduceMean" for node in nodes)
    model = model_of(opset, *nodes, weights=(AXES,) if means else ())
    lowest(model)
    onnx.checker.check_model(model, full_check=True)
    assert (model.opset_import[0].version, model.ir_version) == expected
    for node in model.graph.node:
        before, after = (onnx.defs.get_schema(node.op_type, number) for number in (opset, expected[0]))
        assert before.since_version == after.since_version or node.op_type == "ReduceMean"


def test_axes_of_a_mean_that_are_computed_stay_an_input() -> None:
    nodes = [
        helper.make_node("Constant", [], ["axes"], value_ints=[2, 3]),
        helper.make_node("ReduceMean", ["x", "axes"], ["y"]),
    ]
    model = model_of(18, *nodes)
    lowest(model)
    onnx.checker.check_model(model, full_check=True)
    assert (model.opset_import[0].version, model.ir_version) == (18, 8)


def test_domains_that_are_not_used_are_left_out() -> None:
    model = model_of(18, helper.make_node("Relu", ["x"], ["y"]))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    lowest(model)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 14)]
    lowest(model)
    assert model.opset_import[0].version == 14, "what is lowest stays"
