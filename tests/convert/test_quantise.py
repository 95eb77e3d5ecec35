"""Calibrated int8, by what the file holds and by what it computes."""

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, numpy_helper

from nasdeploy.convert.fast_export import quick_onnx
from nasdeploy.convert.quantise import RECIPES, Quantiser, saturates
from nasdeploy.core.plan import TensorType
from nasdeploy.supernet.supernet import extract
from tests.exporting.models import supernet_of
from tests.small_spaces import one_stage

BATCH = 4


@cache
def fp32() -> bytes:
    network = extract(supernet_of(one_stage()), one_stage().named["t0"])
    return quick_onnx(network, [TensorType((3, 12, 12))], BATCH)


def images(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((BATCH, 3, 12, 12)).astype(np.float32)


@cache
def quantiser(runtime: str) -> Quantiser:
    return Quantiser(fp32(), RECIPES[runtime], [images(seed) for seed in range(8)], reduce_range=True)


@cache
def loaded(runtime: str, *kept: str) -> ModelProto:
    model = onnx.load_from_string(quantiser(runtime).quantised(kept))
    onnx.checker.check_model(model, full_check=True)
    return model


def arrays(model: ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def logits(model: bytes, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model)
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.mark.parametrize("runtime", RECIPES)
def test_logits_stay_near_those_of_fp32(runtime: str) -> None:
    x = images(100)
    expected, found = logits(fp32(), x), logits(loaded(runtime).SerializeToString(), x)
    error = np.sqrt(np.square(found - expected).mean()) / np.ptp(expected)
    assert 0 < error < 0.05


@pytest.mark.parametrize("runtime", RECIPES)
def test_every_layer_has_weights_in_int8_with_a_scale_for_each_channel(runtime: str) -> None:
    model = loaded(runtime)
    values, makers = arrays(model), {out: node for node in model.graph.node for out in node.output}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == len(quantiser(runtime).layers) >= 8
    for layer in layers:
        expand = makers[layer.input[1]]
        assert expand.op_type == "DequantizeLinear"
        weight, scale = (values[name] for name in expand.input[:2])
        assert weight.dtype == np.int8
        assert scale.shape == (weight.shape[0],)
    assert {entry.domain for entry in model.opset_import} == {""}


def test_layers_that_are_kept_have_the_weights_of_fp32() -> None:
    kept = quantiser("onnxruntime").layers[2]
    original = next(node for node in onnx.load_from_string(fp32()).graph.node if node.name == kept)
    node = next(node for node in loaded("onnxruntime", kept).graph.node if node.name == kept)
    weight = arrays(onnx.load_from_string(fp32()))[original.input[1]]
    np.testing.assert_array_equal(arrays(loaded("onnxruntime", kept))[node.input[1]], weight)


def test_each_weight_is_within_half_a_step() -> None:
    model = loaded("tensorrt-rtx")
    values, before = arrays(model), arrays(onnx.load_from_string(fp32()))
    expands = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    assert len(expands) == len(quantiser("tensorrt-rtx").layers)
    assert not any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    for node in expands:
        integers, scale = (values[name].astype(np.float64) for name in node.input)
        shaped = scale.reshape(-1, *[1] * (integers.ndim - 1))
        assert (np.abs(integers * shaped - before[node.output[0]]) <= 0.5001 * shaped).all()


def test_tensorrt_gets_no_zero_points_and_no_integer_biases() -> None:
    model = loaded("tensorrt")
    values = arrays(model)
    quantising = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert quantising
    for node in quantising:
        assert values[node.input[2]].dtype == np.int8
        assert not values[node.input[2]].any()
    assert not any(value.dtype == np.int32 for value in values.values())


def test_seven_bits_are_seven_bits() -> None:
    eight = Quantiser(fp32(), RECIPES["onnxruntime"], [images(0)], reduce_range=False)
    largest = {
        reduced: max(np.abs(value.astype(int)).max() for value in arrays(model).values() if value.dtype == np.int8)
        for reduced, model in ((True, loaded("onnxruntime")), (False, onnx.load_from_string(eight.quantised())))
    }
    assert largest[True] <= 64
    assert largest[False] == 127


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    Quantiser(fp32(), RECIPES["onnxruntime"], [images(0)], reduce_range=True).quantised()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor : 0\nflags\t: fpu sse2 avx2\n", True),
        ("flags : fpu sse2 avx2 avx512_vnni\n", False),
        ("flags : fpu sse2 avx2 avx_vnni\n", False),
        ("Features : fp asimd asimddp\n", False),
        ("", False),
    ],
)
def test_processors_that_saturate_are_those_without_vnni(text: str, expected: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    assert saturates(tmp_path / "cpuinfo") == expected
    assert not saturates(tmp_path / "absent")
