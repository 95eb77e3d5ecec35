"""Operators of ONNX as LiteRT's: those that Google's converter would have, and numbers that are PyTorch's."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ai_edge_litert import schema_py_generated as schema
from torch import Tensor, nn

from nasdeploy.blocks.inverted_residual import MBConv
from nasdeploy.convert import model_for
from nasdeploy.convert.fast_export import quick_onnx
from nasdeploy.convert.litert import network_tflite
from nasdeploy.convert.tflite import to_tflite
from nasdeploy.convert.tflite_int8 import TfliteQuantiser
from nasdeploy.convert.tflite_operators import WRITERS
from nasdeploy.convert.tflite_translation import UnknownOperator
from nasdeploy.core.errors import ConversionRefused
from nasdeploy.core.plan import TensorType
from nasdeploy.nn.network import StaticBlock
from nasdeploy.runtimes import RUNTIMES
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Array, LocalTarget
from nasdeploy.runtimes.tflite_file import read_tflite
from tests.conformance.runtime_models import unknown_operator
from tests.conformance.test_formats import DIGITS, network_of

BLOCK = MBConv(8, 16, 16, kernel_size=3, expand_ratio=4, stride=1, se=True, activation="hswish")
HERE = LocalTarget("here", "litert")
_NAMES = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}


class Computing(nn.Module):
    """A function with a weight, as the exporter wants a module to have one."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.zeros(1))

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


def parsed(content: bytes) -> Any:
    return schema.ModelT.InitFromPackedBuf(content)


def operators(content: bytes) -> list[str]:
    model = parsed(content)
    return [_NAMES[model.operatorCodes[each.opcodeIndex].builtinCode] for each in model.subgraphs[0].operators]


def options(content: bytes, operator: str) -> Mapping[str, Any]:
    """Of the first operator of that kind."""
    return vars(parsed(content).subgraphs[0].operators[operators(content).index(operator)].builtinOptions)


def run(content: bytes, *inputs: Array) -> Array:
    session = RUNTIMES["litert"].open(content, HERE)
    (found,) = session.run(dict(zip(session.inputs, inputs, strict=True)))
    session.close()
    return found


def translated(function: Any, *shapes: tuple[int, ...]) -> list[str]:
    """The operators of a function of images, after it was seen to compute what PyTorch does."""
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(1, *shape, generator=generator) for shape in shapes]
    module = Computing(function)
    content = to_tflite(quick_onnx(module, [TensorType(shape) for shape in shapes], 1))
    with torch.no_grad():
        expected = module(*given).numpy()
    np.testing.assert_allclose(run(content, *(x.numpy() for x in given)), expected, rtol=1e-4, atol=1e-5)
    return operators(content)


WEIGHT, BIAS = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(1)), torch.linspace(-1, 1, 8)
TURNED = ["TRANSPOSE", "CONV_2D", "TRANSPOSE"]


def test_activations_are_fused_where_nothing_else_takes_what_they_are_of() -> None:
    shape = (4, 6, 6)
    assert translated(lambda x: F.relu(F.conv2d(x, WEIGHT, BIAS)), shape) == TURNED
    assert translated(lambda x: F.relu6(F.conv2d(x, WEIGHT, BIAS)), shape) == TURNED

    def both(x: Tensor) -> Tensor:
        y = F.conv2d(x, WEIGHT, BIAS)
        return F.relu(y).add(y)

    assert translated(both, shape) == ["TRANSPOSE", "CONV_2D", "RELU", "ADD", "TRANSPOSE"]


def test_hard_sigmoid_is_fused_into_the_layer_before_it() -> None:
    found = translated(lambda x: F.hardsigmoid(F.conv2d(x, WEIGHT, BIAS)), (4, 6, 6))
    assert found == ["TRANSPOSE", "CONV_2D", "MUL", "TRANSPOSE"]
    assert translated(F.hardsigmoid, (4,)) == ["ADD", "MUL"]


@pytest.mark.parametrize(
    ("side", "stride", "padding", "expected"),
    [
        (6, 1, 0, TURNED),
        (6, 1, 1, TURNED),
        (7, 2, 1, TURNED),
        # SAME would pad behind only.
        (6, 2, 1, ["TRANSPOSE", "PAD", "CONV_2D", "TRANSPOSE"]),
    ],
)
def test_padding_is_written_out_only_where_it_is_not_same(
    side: int, stride: int, padding: int, expected: list[str]
) -> None:
    assert translated(lambda x: F.conv2d(x, WEIGHT, BIAS, stride, padding), (4, side, side)) == expected


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_convolutions_are_such(multiplier: int) -> None:
    weight = torch.randn(4 * multiplier, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    found = translated(lambda x: F.conv2d(x, weight, None, 1, 1, 1, 4), (4, 6, 6))
    assert found == ["TRANSPOSE", "DEPTHWISE_CONV_2D", "TRANSPOSE"]


def test_groups_and_dilation_of_convolutions() -> None:
    weight = torch.randn(8, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    assert translated(lambda x: F.conv2d(x, weight, BIAS, 1, 0, 1, 2), (4, 6, 6)) == TURNED
    assert translated(lambda x: F.conv2d(x, WEIGHT, BIAS, 1, 0, 2), (4, 8, 8)) == TURNED


@pytest.mark.parametrize(
    ("function", "side", "expected"),
    [
        (lambda x: F.max_pool2d(x, 3, 2, 1), 7, ["MAX_POOL_2D"]),
        (lambda x: F.max_pool2d(x, 3, 2, 1), 8, ["PADV2", "MAX_POOL_2D"]),
        (lambda x: F.avg_pool2d(x, 2), 6, ["AVERAGE_POOL_2D"]),
        (lambda x: F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False), 7, ["AVERAGE_POOL_2D"]),
        (lambda x: F.avg_pool2d(x, 3, padding=1), 7, ["PAD", "AVERAGE_POOL_2D"]),
    ],
)
def test_pooling(function: Any, side: int, expected: list[str]) -> None:
    assert translated(function, (4, side, side)) == ["TRANSPOSE", *expected, "TRANSPOSE"]


def test_the_exact_gelu_is_one_operator() -> None:
    assert translated(F.gelu, (5, 4)) == ["GELU"]


def test_an_operator_without_a_counterpart_is_named() -> None:
    with pytest.raises(UnknownOperator, match=r"^no operator of LiteRT is known for Unheard \(odd\)$"):
        to_tflite(unknown_operator("onnx"))


def test_a_block_that_cannot_be_converted_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(WRITERS, "HardSwish")  # type: ignore[arg-type]
    said = r"^LiteRT: no operator of LiteRT is known for HardSwish \(HardSwish.\d\); use another runtime$"
    with pytest.raises(ConversionRefused, match=said):
        model_for(StaticBlock(BLOCK), BLOCK.inputs, Device(name="here", runtime="litert"))


def test_blocks_are_not_turned_round_as_inside_a_network() -> None:
    model = model_for(StaticBlock(BLOCK), BLOCK.inputs, Device(name="here", runtime="litert"))
    assert isinstance(model, bytes)
    assert "TRANSPOSE" not in operators(model)
    assert [each.shape for each in read_tflite(model).inputs] == [(1, 8, 8, 16)]
    assert operators(network_tflite(network_of(DIGITS, DIGITS.smallest()), 1)).count("TRANSPOSE") == 1


def test_files_are_the_same_each_time() -> None:
    network = network_of(DIGITS, DIGITS.smallest())
    assert network_tflite(network, 1) == network_tflite(network, 1)


def test_half_of_the_weights_bytes_and_a_note_in_fp16() -> None:
    network = network_of(DIGITS, DIGITS.smallest())
    whole, half = network_tflite(network, 1), network_tflite(network, 1, half=True)
    assert read_tflite(half).metadata["reduced_precision_support"] == b"fp16accfp16"
    assert not read_tflite(whole).metadata
    assert set(operators(half)) == {*operators(whole), "DEQUANTIZE"}
    assert sum(each.size for each in _weights(half, 1)) == sum(each.size for each in _weights(whole, 0))
    assert len(half) < 0.8 * len(whole)


def _weights(content: bytes, kind: int) -> list[Array]:
    """The constants of a type that have more than one number."""
    model = parsed(content)
    found = [tensor for tensor in model.subgraphs[0].tensors if tensor.type == kind and tensor.buffer]
    return [np.empty(tensor.shape) for tensor in found if np.prod(tensor.shape) > 1]


# -- int8


def images(count: int) -> list[dict[str, Array]]:
    rng = np.random.default_rng(0)
    return [{"input": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(count)]


def test_int8_is_close_small_and_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    network = network_of(DIGITS, DIGITS.smallest())
    fp32 = network_tflite(network, 1)
    quantiser = TfliteQuantiser(fp32, images(8))
    model = quantiser.quantised()
    assert capfd.readouterr() == ("", "")
    assert len(model) < 0.6 * len(fp32), "of small networks much is names"
    given = images(4)
    expected, found = (np.concatenate([run(each, feeds["input"]) for feeds in given]) for each in (fp32, model))
    assert 0 < np.abs(found - expected).max() < 0.1 * np.ptp(expected)
    assert [(each.name, each.dtype) for each in read_tflite(model).inputs] == [("input", "float32")]


def test_layers_that_are_kept_stay_as_they_are() -> None:
    fp32 = network_tflite(network_of(DIGITS, DIGITS.smallest()), 1)
    quantiser = TfliteQuantiser(fp32, images(2))
    layers = [name for name in operators(fp32) if name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")]
    assert len(quantiser.layers) == len(layers) > 4
    assert _in_fp32(quantiser.quantised()) == set()
    kept = (quantiser.layers[1], quantiser.layers[-1])
    assert _in_fp32(quantiser.quantised(kept)) == set(kept)
    assert _in_fp32(quantiser.quantised(quantiser.layers)) == set(quantiser.layers)


def _in_fp32(content: bytes) -> set[str]:
    """The layers whose weights are in fp32, by the name of what they give, without what is done to that."""
    model = parsed(content)
    tensors, found = model.subgraphs[0].tensors, set()
    for operator, kind in zip(model.subgraphs[0].operators, operators(content), strict=True):
        if kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED") and tensors[operator.inputs[1]].type == 0:
            found.add(tensors[operator.outputs[0]].name.decode())
    return found


def test_another_batch_is_quantised_by_the_same_ranges() -> None:
    network = network_of(DIGITS, DIGITS.smallest())
    quantiser = TfliteQuantiser(network_tflite(network, 1), images(4))
    three = quantiser.quantised((), network_tflite(network, 3))
    (given,) = read_tflite(three).inputs
    assert given.shape == (3, 3, 8, 8)
    session = RUNTIMES["litert"].open(three, LocalTarget("here", "litert", batch=3))
    x = np.concatenate([feeds["input"] for feeds in images(3)])
    (found,) = session.run({"input": x})
    expected = np.concatenate([run(quantiser.quantised(), row[None]) for row in x])
    np.testing.assert_allclose(found, expected, atol=1e-6)
