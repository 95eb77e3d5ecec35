"""An ONNX model while it is translated: which of its tensors are where in the `.tflite` file, and how they lie."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from nasdeploy.convert.tflite_graph import Operator, TfliteGraph
from nasdeploy.core.plan import Shape
from nasdeploy.runtimes.runtime import Array

TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
"""The axes of NCHW in the order of NHWC, and the other way round."""


class UnknownOperator(ValueError):
    """Names an operator of ONNX, or a way of using it, that has no counterpart in LiteRT here."""


@dataclass(frozen=True)
class Value:
    """A tensor while a graph is translated."""

    index: int
    shape: Shape
    """The sizes as they lie in the file."""
    last: bool = False
    """Whether it is of images whose channels come last."""


class Translation:
    """What is translated, and what was so far."""

    def __init__(self, model: ModelProto, half: bool) -> None:
        self.graph = TfliteGraph(half)
        self.onnx = model.graph
        self.weights = {each.name: numpy_helper.to_array(each) for each in self.onnx.initializer}
        described = (*self.onnx.value_info, *self.onnx.output)
        self.shapes = {each.name: tuple(d.dim_value for d in each.type.tensor_type.shape.dim) for each in described}
        self.uses = Counter(name for node in self.onnx.node for name in node.input)
        self.uses.update(each.name for each in self.onnx.output)
        self.values: dict[str, Value] = {}
        self.turned: dict[tuple[int, bool], Value] = {}

    def value(self, name: str) -> Value:
        """Return a tensor that was computed, or a weight as it is."""
        if name not in self.values:
            weight = self.weights[name]
            self.values[name] = Value(self.graph.constant(weight, name), weight.shape)
        return self.values[name]

    def last(self, value: Value) -> Value:
        """Return images with their channels last."""
        return value if value.last else self._turn(value, TO_LAST, last=True)

    def first(self, value: Value) -> Value:
        """Return images with their channels first, anything else as it is."""
        return self._turn(value, TO_FIRST, last=False) if value.last else value

    def _turn(self, value: Value, order: Sequence[int], *, last: bool) -> Value:
        key = (value.index, last)
        if key not in self.turned:
            shape = tuple(value.shape[axis] for axis in order)
            found = self.write("TRANSPOSE", [value.index, self.integers(order)], shape)
            self.turned[key] = Value(found.index, shape, last)
        return self.turned[key]

    def write(
        self, operator: Operator, inputs: Sequence[int], shape: Shape, *, last: bool = False, **options: Any
    ) -> Value:
        """Write an operator with one output, of its first input's type."""
        return Value(self.graph.operator(operator, inputs, shape, **options), shape, last)

    def integers(self, values: Sequence[int] | Sequence[Sequence[int]] | Array) -> int:
        """Return a constant of 32-bit integers."""
        return self.graph.constant(np.asarray(values, np.int32), "shape")

    def output(self, node: NodeProto, *, last: bool = False) -> Shape:
        """Return the shape of a node's output, as it lies in the file."""
        shape: Shape = self.shapes[node.output[0]]
        return tuple(shape[axis] for axis in TO_LAST) if last else shape

    def integer_inputs(self, node: NodeProto, number: int) -> list[int]:
        """Return an input that has to be a constant of integers."""
        if node.input[number] not in self.weights:
            raise UnknownOperator(f"{node.op_type} ({node.name}) takes computed integers")
        return [int(each) for each in self.weights[node.input[number]].reshape(-1)]


def attributes(node: NodeProto) -> dict[str, Any]:
    """Return the attributes of a node by name."""
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}
