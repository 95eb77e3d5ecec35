"""What fp16 does to a model, against NumPy's fp16; and what has to stay in fp32, for faults in each place."""

import re
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from nasdeploy.blocks.heads import PoolHead
from nasdeploy.blocks.inverted_residual import MBConv
from nasdeploy.convert.fast_export import quick_onnx
from nasdeploy.convert.precision import LARGEST, Watched, furthest, rounded, to_fp16, unfit
from nasdeploy.nn.network import StaticBlock
from nasdeploy.runtimes.onnxruntime import OnnxRuntime
from nasdeploy.runtimes.runtime import Array, LocalTarget
from tests.conformance.runtime_models import onnx_bytes

BLOCK = MBConv(8, 16, 16, kernel_size=3, expand_ratio=4, stride=1, se=True, activation="relu")
HEAD = PoolHead(4, 16, 32, expand_ratio=4, classes=10, activation="relu")
IMAGES = 16
Change = Callable[[nn.Module], None]


def scaled(**factors: float) -> Change:
    """Parameters whose names end so times a factor; a factor and its inverse take each other back."""

    def change(module: nn.Module) -> None:
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                for ending, factor in factors.items():
                    if name.endswith(ending.replace("__", ".")):
                        parameter.mul_(factor)

    return change


def model_of(block: MBConv | PoolHead, change: Change) -> bytes:
    torch.manual_seed(0)
    module = StaticBlock(block)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    change(module)
    return quick_onnx(module, block.inputs, IMAGES)


def images(block: MBConv | PoolHead) -> Array:
    x: Array = torch.randn(IMAGES, *block.inputs[0].shape, generator=torch.Generator().manual_seed(1)).numpy()
    return x


def run(model: bytes, x: Array) -> Array:
    session = OnnxRuntime().open(model, LocalTarget("here", "onnxruntime"))
    (found,) = session.run({next(iter(session.inputs)): x})
    return found


def in_half(model: bytes, x: Array, kept: tuple[str, ...] = ()) -> tuple[Array, float, str]:
    """What it computes where fp16 is really computed, and how far what result reaches."""
    emulated = rounded(to_fp16(model, kept=kept))
    watched = Watched(emulated)
    (found,) = watched.run({next(iter(watched.inputs)): x})
    reach = furthest(emulated, watched.largest())
    return found, reach.largest, reach.operator


def test_results_are_numpys_in_fp16_with_sums_in_fp32() -> None:
    rng = np.random.default_rng(0)
    weight, bias, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((6, 4), (4,), (5, 6)))
    nodes = [
        helper.make_node("Gemm", ["input", "weight", "bias"], ["sum"], "sum"),
        helper.make_node("Sigmoid", ["sum"], ["gate"], "gate"),
        helper.make_node("Mul", ["sum", "gate"], ["logits"], "product"),
    ]
    weights = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")]
    model = onnx_bytes(nodes, {"input": [5, 6]}, {"logits": [5, 4]}, weights)
    half, single = np.float16, np.float32
    summed = (x.astype(half).astype(single) @ weight.astype(half).astype(single) + bias.astype(half)).astype(half)
    gate = (1 / (1 + np.exp(-summed.astype(single)))).astype(half)
    expected = (summed.astype(single) * gate.astype(single)).astype(half)
    found, largest, operator = in_half(model, x)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
    assert np.array_equal(found, found.astype(half)), "every result is a number of fp16"
    assert not np.array_equal(found, run(to_fp16(model), x)), "ONNX Runtime computes in fp32 here"
    assert (largest, operator) == (pytest.approx(float(np.abs(summed).max()), rel=1e-2), "Gemm sum")


FAULTS = {
    # What follows takes it back.
    "depthwise": (BLOCK, scaled(depthwise_norm__weight=1e6, project__weight=1e-6)),
    "only squeeze-and-excitation": (BLOCK, scaled(reduce__weight=1e7, restore__weight=1e-7)),
    "the block's result": (BLOCK, scaled(project_norm__weight=1e7)),
    "head": (HEAD, scaled(expand_norm__weight=1e7, project__weight=1e-7)),
    "a weight": (HEAD, scaled(project__weight=1e6, classifier__weight=1e-6)),
}
LOST = {
    "depthwise": (BLOCK, scaled(depthwise_norm__weight=1e-8, project__weight=1e8)),
    "only squeeze-and-excitation": (BLOCK, scaled(reduce__weight=1e-9, restore__weight=1e9)),
    "head": (HEAD, scaled(expand_norm__weight=1e-8, project__weight=1e8)),
}
EVERY = [*FAULTS.values(), *LOST.values()]
NAMES = [*(f"beyond: {name}" for name in FAULTS), *(f"lost: {name}" for name in LOST)]


@pytest.mark.parametrize(("block", "change"), FAULTS.values(), ids=FAULTS)
def test_what_exceeds_fp16_is_named(block: MBConv | PoolHead, change: Change) -> None:
    model, x = model_of(block, change), images(block)
    found, largest, operator = in_half(model, x)
    assert not largest <= LARGEST
    assert operator in [f"{node.op_type} {node.name}" for node in onnx.load_from_string(model).graph.node]
    assert not disagreement(found, run(model, x)) < 0.01


def disagreement(found: Array, expected: Array) -> float:
    return float(np.abs(found - expected).max() / np.ptp(expected))


@pytest.mark.parametrize(("block", "change"), EVERY, ids=NAMES)
def test_kept_in_fp32_it_computes_the_same(block: MBConv | PoolHead, change: Change) -> None:
    model, x = model_of(block, change), images(block)
    spoilt = in_half(model, x)[0]
    assert not disagreement(spoilt, run(model, x)) < 0.01
    unfitting = unfit(model, [x])
    total = len(onnx.load_from_string(model).graph.node)
    assert 0 < len(unfitting.operators) < total
    half = to_fp16(model, keep_io_types=True, kept=unfitting.operators)
    onnx.checker.check_model(half, full_check=True)
    found, largest, _ = in_half(model, x, unfitting.operators)
    assert largest <= LARGEST
    assert disagreement(found, run(model, x)) < 0.01
    assert disagreement(run(half, x), run(model, x)) < 0.01


def test_the_reason_names_operator_and_magnitude() -> None:
    block, change = FAULTS["depthwise"]
    assert re.fullmatch(
        r"the result of Conv Conv\.\d+ reaches \d\.?\d*e\+06, and fp16 ends at 65504",
        unfit(model_of(block, change), [images(block)]).reason,
    )
    block, change = LOST["depthwise"]
    assert re.fullmatch(
        r"the result of Conv Conv\.\d+ has magnitudes of \S+e-0\d at most, and fp16 loses digits below 6\.1e-05",
        unfit(model_of(block, change), [images(block)]).reason,
    )


@pytest.mark.parametrize("block", [BLOCK, HEAD], ids=["block", "head"])
def test_a_sound_network_stays_in_fp16_as_a_whole(block: MBConv | PoolHead) -> None:
    model, x = model_of(block, scaled()), images(block)
    assert unfit(model, [x]).operators == ()
    found, largest, _ = in_half(model, x)
    assert disagreement(found, run(model, x)) < 0.01
    assert 0.1 < largest < 1000


def test_half_of_what_fp16_holds_is_left_to_other_images() -> None:
    def with_weight(value: float) -> bytes:
        weight = numpy_helper.from_array(np.full((6, 4), value, np.float32), "weight")
        node = helper.make_node("MatMul", ["input", "weight"], ["logits"], "product")
        return onnx_bytes([node], {"input": [1, 6]}, {"logits": [1, 4]}, [weight])

    one = np.array([[1, 0, 0, 0, 0, 0]], np.float32)
    assert unfit(with_weight(32000), [one]).operators == ()
    assert unfit(with_weight(33000), [one]).operators == ("product",)
    assert unfit(with_weight(-33000), [one]).operators == ("product",)
    # The batch that reaches furthest decides, wherever it stands.
    assert unfit(with_weight(20000), [one, 2 * one, one]).operators == ("product",)


def test_nothing_goes_through_fp16_between_operators_that_are_kept() -> None:
    model = model_of(BLOCK, scaled())
    names = [node.name for node in onnx.load_from_string(model).graph.node]
    for kept in (names, names[:3], names[-3:], names[::2]):
        graph = onnx.load_from_string(to_fp16(model, kept=kept)).graph
        casts = {node.output[0]: node for node in graph.node if node.op_type == "Cast"}
        assert not [node.name for node in casts.values() if node.input[0] in casts]
        assert [value.name for value in graph.output] == [onnx.load_from_string(model).graph.output[0].name]
    whole = onnx.load_from_string(to_fp16(model, kept=names)).graph
    assert [node.op_type for node in whole.node].count("Cast") == 0
