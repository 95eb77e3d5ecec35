"""The operators of LiteRT for each of ONNX's, as litert-torch writes them.

Images become channels-last, as LiteRT computes; activations are fused into what gives them, and padding becomes SAME
where it is that.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from onnx import NodeProto

from nasdeploy.convert.tflite_graph import Operator
from nasdeploy.convert.tflite_translation import Translation, UnknownOperator, Value, attributes
from nasdeploy.runtimes.runtime import Array

_AXES_LAST = (0, 3, 1, 2)
"""The places in NHWC of the axes of NCHW."""
_FUSES = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "MUL")


# -- operators on images


def _same(sides: Sequence[int], kernel: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Return the padding that SAME means: top, left, bottom, right."""
    whole = [
        max((-(-side // step) - 1) * step + size - side, 0)
        for side, size, step in zip(sides, kernel, strides, strict=True)
    ]
    return [each // 2 for each in whole] + [each - each // 2 for each in whole]


def _padded(
    t: Translation, x: Value, pads: Sequence[int], kernel: Sequence[int], strides: Sequence[int]
) -> tuple[Value, int]:
    """Return images and the kind of padding by which an operator sees zeros round them: 0 is SAME, 1 VALID."""
    if not any(pads):
        return x, 1
    if list(pads) == _same(x.shape[1:3], kernel, strides):
        return x, 0
    return _with_zeros(t, x, pads), 1


def _with_zeros(t: Translation, x: Value, pads: Sequence[int]) -> Value:
    return _around(t, x, pads, "PAD")


def _around(t: Translation, x: Value, pads: Sequence[int], operator: Operator, *value: int) -> Value:
    top, left, bottom, right = pads
    batch, height, width, channels = x.shape
    around = t.integers([[0, 0], [top, bottom], [left, right], [0, 0]])
    shape = (batch, height + top + bottom, width + left + right, channels)
    return t.write(operator, [x.index, around, *value], shape, last=True)


def _conv(t: Translation, node: NodeProto) -> Value:
    how, weight = attributes(node), t.weights[node.input[1]]
    x = t.last(t.value(node.input[0]))
    kernel, strides, group = weight.shape[2:], how.get("strides", [1, 1]), how.get("group", 1)
    x, padding = _padded(t, x, how.get("pads", [0] * 4), kernel, strides)
    bias = t.weights[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight), np.float32)
    options = {"padding": padding, "strideH": strides[0], "strideW": strides[1]}
    height, width = how.get("dilations", [1, 1])
    options |= {"dilationHFactor": height, "dilationWFactor": width}
    if group > 1 and group == x.shape[3]:
        options["depthMultiplier"] = len(weight) // group
        # Of each channel of the input those of the output lie together, as in ONNX.
        filters, operator = weight.reshape(len(weight), *kernel).transpose(1, 2, 0)[None], "DEPTHWISE_CONV_2D"
    else:
        filters, operator = weight.transpose(0, 2, 3, 1), "CONV_2D"
    inputs = [x.index, t.graph.weight(filters, node.input[1]), t.graph.weight(bias, f"{node.name}.bias")]
    return t.write(operator, inputs, t.output(node, last=True), last=True, **options)


def _pool(t: Translation, node: NodeProto) -> Value:
    how, x = attributes(node), t.last(t.value(node.input[0]))
    kernel, strides, pads = how["kernel_shape"], how["strides"], list(how.get("pads", [0] * 4))
    shape = t.output(node, last=True)
    # Where the last window reaches beyond the image, that is padding of its own kind, which counts for nothing.
    beyond = [
        max((count - 1) * step + size - side - before - after, 0)
        for count, step, size, side, before, after in zip(
            shape[1:3], strides, kernel, x.shape[1:3], pads[:2], pads[2:], strict=True
        )
    ]
    around = [*pads[:2], pads[2] + beyond[0], pads[3] + beyond[1]]
    mean = node.op_type == "AveragePool"
    counted = mean and any(pads) and how.get("count_include_pad", 0)
    padding = 1
    if any(around) and not counted and around == _same(x.shape[1:3], kernel, strides):
        padding = 0
    elif mean and any(around):
        if any(beyond) or not counted:
            raise UnknownOperator(f"AveragePool ({node.name}) with padding that does not count")
        x = _with_zeros(t, x, pads)
    elif any(around):
        x = _with_lowest(t, x, around)
    options = {"padding": padding, "strideH": strides[0], "strideW": strides[1]}
    options |= {"filterHeight": kernel[0], "filterWidth": kernel[1]}
    return t.write("AVERAGE_POOL_2D" if mean else "MAX_POOL_2D", [x.index], shape, last=True, **options)


def _with_lowest(t: Translation, x: Value, pads: Sequence[int]) -> Value:
    """Return images with the lowest number round them, which is never the largest."""
    lowest = t.graph.constant(np.array(np.finfo(np.float32).min, np.float32), "lowest")
    return _around(t, x, pads, "PADV2", lowest)


def _pad(t: Translation, node: NodeProto) -> Value:
    _, _, top, left, _, _, bottom, right = t.integer_inputs(node, 1)
    return _with_zeros(t, t.last(t.value(node.input[0])), (top, left, bottom, right))


# -- others


def _activation(operator: Operator, fused: int = 0) -> Callable[[Translation, NodeProto], Value]:
    """Return the writer of a function of each number; `fused` is its number as a part of another operator."""

    def write(t: Translation, node: NodeProto) -> Value:
        x = t.value(node.input[0])
        if fused and t.uses[node.input[0]] == 1 and t.graph.fuse(x.index, fused, _FUSES):
            return x
        return t.write(operator, [x.index], x.shape, last=x.last)

    return write


_RELU, _RELU6 = 1, 3


def _clip(t: Translation, node: NodeProto) -> Value:
    limits = [float(t.weights[name]) for name in node.input[1:]]
    if limits != [0.0, 6.0]:
        raise UnknownOperator(f"Clip ({node.name}) to {limits}")
    return _activation("RELU6", _RELU6)(t, node)


def _hard_sigmoid(t: Translation, node: NodeProto) -> Value:
    """Write the sum with 3, from 0 to 6, and a sixth of that."""
    x = t.value(node.input[0])
    three, sixth = (t.graph.constant(np.array(each, np.float32), "of hard sigmoid") for each in (3.0, 1 / 6))
    if t.uses[node.input[0]] != 1 or not t.graph.add_to_bias(x.index, 3.0):
        x = t.write("ADD", [x.index, three], x.shape, last=x.last)
    t.graph.fuse(x.index, _RELU6, _FUSES)
    return t.write("MUL", [x.index, sixth], x.shape, last=x.last)


def _binary(operator: Operator) -> Callable[[Translation, NodeProto], Value]:
    def write(t: Translation, node: NodeProto) -> Value:
        pair = [t.value(name) for name in node.input]
        last = any(each.last for each in pair)
        if last:
            pair = [t.last(each) if len(each.shape) == 4 else each for each in pair]
            if any(1 <= len(each.shape) < 4 for each in pair):
                raise UnknownOperator(f"{node.op_type} ({node.name}) of images and a list of numbers")
        return t.write(operator, [each.index for each in pair], t.output(node, last=last), last=last)

    return write


def _mean(t: Translation, node: NodeProto) -> Value:
    x, how = t.value(node.input[0]), attributes(node)
    keep = bool(how.get("keepdims", 1))
    # Up to ONNX's version 17 an attribute, from then on an input.
    axes = [axis % len(x.shape) for axis in (t.integer_inputs(node, 1) if len(node.input) > 1 else how["axes"])]
    if len(x.shape) == 4 and not keep:
        x = t.first(x)
    if x.last:
        axes = sorted(_AXES_LAST[axis] for axis in axes)
    return t.write("MEAN", [x.index, t.integers(axes)], t.output(node, last=x.last), last=x.last, keepDims=keep)


def _gemm(t: Translation, node: NodeProto) -> Value:
    how, weight = attributes(node), t.weights[node.input[1]]
    if how.get("alpha", 1.0) != 1.0 or how.get("beta", 1.0) != 1.0 or how.get("transA", 0):
        raise UnknownOperator(f"Gemm ({node.name}) with factors")
    rows = weight if how.get("transB", 0) else weight.T
    bias = t.weights[node.input[2]] if len(node.input) > 2 else np.zeros(len(rows), np.float32)
    return _product(t, node, rows, bias)


def _product(t: Translation, node: NodeProto, rows: Array, bias: Array) -> Value:
    x = t.first(t.value(node.input[0]))
    inputs = [x.index, t.graph.weight(rows, node.input[1]), t.graph.weight(bias, f"{node.name}.bias")]
    return t.write("FULLY_CONNECTED", inputs, t.output(node), keepNumDims=len(x.shape) > 2)


def _matmul(t: Translation, node: NodeProto) -> Value:
    weight = t.weights.get(node.input[1])
    if weight is not None and weight.ndim == 2:
        return _product(t, node, weight.T, np.zeros(weight.shape[1], np.float32))
    pair = [t.first(t.value(name)) for name in node.input]
    return t.write("BATCH_MATMUL", [each.index for each in pair], t.output(node))


def _reshape(t: Translation, node: NodeProto) -> Value:
    x, shape = t.value(node.input[0]), t.output(node)
    # Images of one pixel are their channels, wherever these are.
    x = x if x.last and x.shape[1:3] == (1, 1) else t.first(x)
    return t.write("RESHAPE", [x.index, t.integers(shape)], shape, newShape=np.asarray(shape, np.int32))


def _transpose(t: Translation, node: NodeProto) -> Value:
    x, order = t.first(t.value(node.input[0])), attributes(node)["perm"]
    return t.write("TRANSPOSE", [x.index, t.integers(order)], t.output(node))


def _gather(t: Translation, node: NodeProto) -> Value:
    source = t.first(t.value(node.input[0]))
    places, axis = t.weights.get(node.input[1]), attributes(node).get("axis", 0)
    index = t.value(node.input[1]).index if places is None else t.integers(places % source.shape[axis])
    return t.write("GATHER", [source.index, index], t.output(node), axis=axis)


def _softmax(t: Translation, node: NodeProto) -> Value:
    x = t.first(t.value(node.input[0]))
    if attributes(node).get("axis", -1) % len(x.shape) != len(x.shape) - 1:
        raise UnknownOperator(f"Softmax ({node.name}) over another axis than the last")
    return t.write("SOFTMAX", [x.index], x.shape, beta=1.0)


def _layer_norm(t: Translation, node: NodeProto) -> Value:
    """Write the difference from the mean, over the root of the mean of its squares, times a weight, plus a bias."""
    how, x = attributes(node), t.first(t.value(node.input[0]))
    if how.get("axis", -1) % len(x.shape) != len(x.shape) - 1:
        raise UnknownOperator(f"LayerNormalization ({node.name}) over more than the last axis")
    axis, one = t.integers([len(x.shape) - 1]), (*x.shape[:-1], 1)
    epsilon = t.graph.constant(np.array(how.get("epsilon", 1e-5), np.float32), "epsilon")
    weight, bias = (t.value(name).index for name in node.input[1:])
    mean = t.write("MEAN", [x.index, axis], one, keepDims=True)
    squares = t.write("SQUARED_DIFFERENCE", [x.index, mean.index], x.shape)
    variance = t.write("MEAN", [squares.index, axis], one, keepDims=True)
    spread = t.write("RSQRT", [t.write("ADD", [variance.index, epsilon], one).index], one)
    centred = t.write("SUB", [x.index, mean.index], x.shape)
    scaled = t.write("MUL", [centred.index, spread.index], x.shape)
    weighted = t.write("MUL", [scaled.index, weight], x.shape)
    return t.write("ADD", [weighted.index, bias], x.shape)


WRITERS: Mapping[str, Callable[[Translation, NodeProto], Value]] = {
    "Conv": _conv,
    "AveragePool": _pool,
    "MaxPool": _pool,
    "Pad": _pad,
    "Relu": _activation("RELU", _RELU),
    "Clip": _clip,
    "Sigmoid": _activation("LOGISTIC"),
    "HardSwish": _activation("HARD_SWISH"),
    "HardSigmoid": _hard_sigmoid,
    "Gelu": _activation("GELU"),
    "Add": _binary("ADD"),
    "Sub": _binary("SUB"),
    "Mul": _binary("MUL"),
    "Div": _binary("DIV"),
    "ReduceMean": _mean,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Gather": _gather,
    "Softmax": _softmax,
    "LayerNormalization": _layer_norm,
}
"""The writers by ONNX's operator."""
