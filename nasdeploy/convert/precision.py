"""ONNX models in other precisions. The precision stands in the file: that is what every runtime understands."""

from collections.abc import Collection, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

from nasdeploy.convert.quantise import RECIPES, layers_of, options_of, weights_only
from nasdeploy.convert.versions import lowest
from nasdeploy.runtimes.runtime import integer_values, random_input

_BATCHES = 2
"""The number of random inputs; ranges for latency need no more."""


def to_fp16(model: bytes, *, keep_io_types: bool = True, kept: Collection[str] = ()) -> bytes:
    """Weights and operators in fp16, but for the operators `kept`; inputs and outputs stay fp32 if `keep_io_types`."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    converted = convert_float_to_float16(
        onnx.load_from_string(model), keep_io_types=keep_io_types, node_block_list=list(kept)
    )
    if kept:
        _without_detours(converted)
    # It appends the casts, and ONNX wants nodes after those that they read.
    OnnxModel(converted).topological_sort()
    lowest(converted)
    content: bytes = converted.SerializeToString(deterministic=True)
    return content


def _without_detours(model: ModelProto) -> None:
    """Hand what stays in fp32 from one operator to the next as it is: the converter takes it through fp16."""
    graph = model.graph
    casts = {node.output[0]: node for node in graph.node if node.op_type == "Cast"}
    half = {name for name, node in casts.items() if helper.get_node_attr_value(node, "to") == TensorProto.FLOAT16}
    direct = {name: casts[node.input[0]].input[0] for name, node in casts.items() if node.input[0] in half}
    outputs = {value.name: direct[value.name] for value in graph.output if value.name in direct}
    # What is given out keeps its name, so that it is what was read instead that is renamed.
    renamed = {source: name for name, source in outputs.items()}
    for node in [node for node in graph.node if node.op_type == "Cast" and node.output[0] in direct]:
        graph.node.remove(node)
    for node in graph.node:
        read = [direct.get(name, name) for name in node.input]
        node.input[:] = [renamed.get(name, name) for name in read]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for node in [node for node in graph.node if node.op_type == "Cast" and node.output[0] not in used]:
        graph.node.remove(node)
    # The converter's types are wrong for some of what stays in fp32.
    del graph.value_info[:]


def to_int8_of_random_ranges(model: bytes, runtime: str) -> bytes:
    """The operators of a calibrated model for a runtime, for latency only (`quantise.RECIPES`).

    Ranges come from random inputs, so that the outputs mean nothing. Inputs have fixed shapes.
    """
    from onnxruntime.quantization import quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    recipe, loaded = RECIPES[runtime], onnx.load_from_string(model)
    if not recipe.activations:
        expanded: bytes = weights_only(loaded, layers_of(loaded)).SerializeToString()
        return expanded
    with TemporaryDirectory() as folder:
        prepared, quantised = Path(folder, "prepared.onnx"), Path(folder, "quantised.onnx")
        quant_pre_process(loaded, str(prepared))
        quantize_static(
            str(prepared),
            str(quantised),
            _RandomInputs(model),
            # Without it processors that lack VNNI saturate; it does not change the operators.
            reduce_range=True,
            **options_of(recipe),
        )
        made = onnx.load(quantised)
        lowest(made)
        # The quantiser keeps nothing of what a model says of its inputs.
        del made.metadata_props[:]
        made.metadata_props.extend(loaded.metadata_props)
        content: bytes = made.SerializeToString(deterministic=True)
        return content


class _RandomInputs:
    """A calibration data reader: a dictionary of inputs at a time, then None."""

    def __init__(self, model: bytes) -> None:
        inputs = onnx.load_from_string(model).graph.input
        types = {each.name: each.type.tensor_type for each in inputs}
        self._shapes = {name: tuple(size.dim_value for size in each.shape.dim) for name, each in types.items()}
        self._types = {name: helper.tensor_dtype_to_np_dtype(each.elem_type) for name, each in types.items()}
        self._values, self._remaining = integer_values(model), _BATCHES
        self._rng = np.random.default_rng(0)

    def get_next(self) -> Mapping[str, Any] | None:
        if self._remaining == 0:
            return None
        self._remaining -= 1
        return {
            name: random_input(shape, self._types[name], self._values.get(name), self._rng)
            for name, shape in self._shapes.items()
        }
