"""Which model is measured on which device."""

import onnx
import pytest
import torch
from onnx import TensorProto

from nasdeploy.blocks.heads import Stem
from nasdeploy.convert import model_for, quick_onnx
from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import TensorType
from nasdeploy.nn.network import Network, StaticBlock
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import TorchModel
from nasdeploy.spaces import load_space

BLOCK = Stem(side=8, out_channels=8, kernel_size=3, stride=1, activation="relu", in_channels=3)


def device(**settings):
    return Device(name="here", **{"runtime": "onnxruntime", **settings})


def first_input(model):
    return onnx.load_from_string(model).graph.input[0].type.tensor_type


def test_fp32_is_the_quick_model_with_the_devices_batch():
    module = StaticBlock(BLOCK)
    model = model_for(module, BLOCK.inputs, device(batch=3))
    assert model == quick_onnx(module, BLOCK.inputs, 3)
    assert [size.dim_value for size in first_input(model).shape.dim] == [3, 3, 8, 8]


def test_pytorch_gets_the_module_itself_in_evaluation_mode():
    module = StaticBlock(BLOCK).train()
    model = model_for(module, BLOCK.inputs, device(runtime="torch", batch=3))
    assert isinstance(model, TorchModel)
    assert model.module is module
    assert not module.training
    assert list(model.inputs.values()) == [TensorType((3, 8, 8))]


def test_networks_in_fp16_take_fp32_and_blocks_do_not():
    space = load_space("digits", 10)
    plan = space.plan(space.smallest())
    half = device(precision="fp16")
    assert first_input(model_for(StaticBlock(BLOCK), BLOCK.inputs, half)).elem_type == TensorProto.FLOAT16
    network = model_for(Network(plan), [tensor for _, tensor in plan.only.inputs], half)
    assert first_input(network).elem_type == TensorProto.FLOAT


def test_int8_has_quantised_operators():
    torch.manual_seed(0)
    model = model_for(StaticBlock(BLOCK), BLOCK.inputs, device(precision="int8"))
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in onnx.load_from_string(model).graph.node}


def test_a_board_needs_no_runtime_here():
    model = model_for(
        StaticBlock(BLOCK), BLOCK.inputs, device(runtime="tensorrt", precision="fp16", host="ssh://me@jetson")
    )
    assert onnx.load_from_string(model).graph.node


def test_a_precision_that_the_runtime_lacks_is_refused():
    with pytest.raises(UserError, match="device here: torch does not run fp16; use fp32"):
        model_for(StaticBlock(BLOCK), BLOCK.inputs, device(runtime="torch", precision="fp16"))
