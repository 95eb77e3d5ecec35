"""A `.tflite` file while it is written: tensors, buffers and operators, in the classes that LiteRT brings for them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nasdeploy.core.plan import Shape
from nasdeploy.runtimes.runtime import Array

Operator = str
"""The name of an operator in `BuiltinOperator`."""

_OPTIONS: Mapping[Operator, str] = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "ADD": "AddOptions",
    "SUB": "SubOptions",
    "MUL": "MulOptions",
    "DIV": "DivOptions",
    "RESHAPE": "ReshapeOptions",
    "TRANSPOSE": "TransposeOptions",
    "PAD": "PadOptions",
    "PADV2": "PadV2Options",
    "GATHER": "GatherOptions",
    "SOFTMAX": "SoftmaxOptions",
    "GELU": "GeluOptions",
    "HARD_SWISH": "HardSwishOptions",
    "BATCH_MATMUL": "BatchMatMulOptions",
    "SQUARED_DIFFERENCE": "SquaredDifferenceOptions",
    "DEQUANTIZE": "DequantizeOptions",
}
"""The table of an operator's options; none for those that have none."""
_VERSIONS: Mapping[Operator, int] = {"DEQUANTIZE": 3}
"""The versions of operators as they are used here, where that is not the first: of weights in fp16 for DEQUANTIZE."""
_SIGNATURE = "serving_default"
_SCHEMA = 3
_PRECISION = "reduced_precision_support"
"""The note by which XNNPACK computes in fp16 where the processor can."""


class TfliteGraph:
    """One graph, whose operators are written in the order in which they are computed."""

    def __init__(self, half: bool) -> None:
        """`half`: weights in fp16, and a note that it may be computed so."""
        from ai_edge_litert import schema_py_generated as schema

        self._schema: Any = schema
        self._half = half
        self._tensors: list[Any] = []
        self._buffers: list[Any] = [schema.BufferT()]
        self._operators: list[Any] = []
        self._kinds: list[Operator] = []
        self._values: dict[int, Array] = {}
        self._makers: dict[int, int] = {}

    def tensor(self, shape: Shape, dtype: npt.DTypeLike, name: str, buffer: int = 0) -> int:
        """Add a tensor; return its index."""
        made = self._schema.TensorT()
        made.shape = np.asarray(shape, np.int32)
        made.type = getattr(self._schema.TensorType, np.dtype(dtype).name.upper())
        made.name, made.buffer, made.hasRank = name, buffer, True
        self._tensors.append(made)
        return len(self._tensors) - 1

    def constant(self, values: Array, name: str) -> int:
        """Add a tensor of these values."""
        buffer = self._schema.BufferT()
        buffer.data = _bytes(values)
        self._buffers.append(buffer)
        # Each name once: tools know tensors by them.
        index = self.tensor(values.shape, values.dtype, f"{name}.{len(self._tensors)}", len(self._buffers) - 1)
        self._values[index] = values
        return index

    def weight(self, values: Array, name: str) -> int:
        """Add a layer's weight, in fp16 if this is a file of such, from which it is expanded."""
        if not self._half:
            return self.constant(values, name)
        return self.operator("DEQUANTIZE", [self.constant(values.astype(np.float16), name)], values.shape)

    def operator(self, kind: Operator, inputs: Sequence[int], shape: Shape, **options: Any) -> int:
        """Add an operator; return the index of its output, which is of floats."""
        output = self.tensor(shape, np.float32, f"{kind.lower()}.{len(self._operators)}")
        made = self._schema.OperatorT()
        made.inputs, made.outputs = np.asarray(inputs, np.int32), np.asarray([output], np.int32)
        if kind in _OPTIONS:
            made.builtinOptionsType = getattr(self._schema.BuiltinOptions, _OPTIONS[kind])
            made.builtinOptions = getattr(self._schema, f"{_OPTIONS[kind]}T")()
            for name, value in options.items():
                setattr(made.builtinOptions, name, value)
        self._makers[output] = len(self._operators)
        self._operators.append(made)
        self._kinds.append(kind)
        return output

    def fuse(self, output: int, activation: int, able: Collection[Operator]) -> bool:
        """Have what gives a tensor also activate it; return whether it can."""
        at = self._makers.get(output)
        if at is None or self._kinds[at] not in able or self._operators[at].builtinOptions.fusedActivationFunction:
            return False
        self._operators[at].builtinOptions.fusedActivationFunction = activation
        return True

    def add_to_bias(self, output: int, number: float) -> bool:
        """Have a layer that gives a tensor add a number to it; return whether it is a layer that can."""
        at = self._makers.get(output)
        if at is None or self._kinds[at] not in ("CONV_2D", "FULLY_CONNECTED"):
            return False
        made = self._operators[at]
        bias = int(made.inputs[2])
        # Of weights in fp16 it is expanded.
        source = int(self._operators[self._makers[bias]].inputs[0]) if bias in self._makers else bias
        if made.builtinOptions.fusedActivationFunction:
            return False
        values = self._values[source]
        self._values[source] = (values + np.asarray(number, values.dtype)).astype(values.dtype)
        self._buffers[self._tensors[source].buffer].data = _bytes(self._values[source])
        return True

    def packed(self, inputs: Mapping[str, int], outputs: Mapping[str, int], notes: Mapping[str, bytes]) -> bytes:
        """Return the file, whose signature names inputs and outputs, with `notes` in its metadata."""
        import flatbuffers

        schema = self._schema
        if self._half:
            notes = {**notes, _PRECISION: b"fp16accfp16"}
        graph = schema.SubGraphT()
        graph.tensors, graph.operators, graph.name = self._tensors, self._operators, "main"
        graph.inputs, graph.outputs = (np.asarray([*each.values()], np.int32) for each in (inputs, outputs))
        model = schema.ModelT()
        model.version, model.description, model.subgraphs = _SCHEMA, "nasdeploy", [graph]
        model.operatorCodes = self._codes()
        model.metadata = [self._note(name, content) for name, content in notes.items()]
        model.buffers = self._buffers
        model.signatureDefs = [self._signature(inputs, outputs)]
        builder = flatbuffers.Builder(sum(len(each.data) for each in self._buffers if each.data is not None) + 65536)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _codes(self) -> list[Any]:
        """Return the kinds of operators, each once, and have the operators refer to them."""
        kinds = list(dict.fromkeys(self._kinds))
        for operator, kind in zip(self._operators, self._kinds, strict=True):
            operator.opcodeIndex = kinds.index(kind)
        return [self._code(kind) for kind in kinds]

    def _code(self, kind: Operator) -> Any:
        made = self._schema.OperatorCodeT()
        made.builtinCode = getattr(self._schema.BuiltinOperator, kind)
        # Versions of LiteRT that know a byte only read the other one.
        made.deprecatedBuiltinCode = min(
            made.builtinCode, self._schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES
        )
        made.version = _VERSIONS.get(kind, 1)
        return made

    def _note(self, name: str, content: bytes) -> Any:
        made, buffer = self._schema.MetadataT(), self._schema.BufferT()
        buffer.data = np.frombuffer(content, np.uint8)
        self._buffers.append(buffer)
        made.name, made.buffer = name, len(self._buffers) - 1
        return made

    def _signature(self, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> Any:
        made = self._schema.SignatureDefT()
        made.signatureKey, made.subgraphIndex = _SIGNATURE, 0
        made.inputs, made.outputs = ([self._named(*each) for each in side.items()] for side in (inputs, outputs))
        return made

    def _named(self, name: str, index: int) -> Any:
        made = self._schema.TensorMapT()
        made.name, made.tensorIndex = name, index
        return made


def _bytes(values: Array) -> Array:
    return np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
