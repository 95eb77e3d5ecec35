"""ONNX models in other precisions, which stand in the file for every runtime; and what fp16 does to a network.

That is found out on a processor that computes in fp32: many processors, those of CI among them, run a model that is
stored in fp16 in fp32, and there a network whose activations exceed fp16 looks sound. Looked at are the results that
operators hand on, after normalisations were folded. Sums inside an operator are taken to be in fp32, as the kernels of
GPUs have them.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.shape_inference import infer_shapes

from nasdeploy.convert.quantise import LAYERS, RECIPES, layers_of, options_of, weights_only
from nasdeploy.convert.versions import lowest
from nasdeploy.core.plan import Shape
from nasdeploy.runtimes.onnxruntime import OnnxRuntime
from nasdeploy.runtimes.runtime import Array, LocalTarget, integer_values, random_input

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


LARGEST = 65504.0
"""The largest number of fp16."""
_MARGIN = 2.0
"""What reaches further than this part of it on some images is taken to exceed it on others."""
_NORMAL = 2.0**-14
"""The number below which fp16 loses digits, and all of them at 6e-8."""


@dataclass(frozen=True)
class Reach:
    """How far an operator's result goes."""

    operator: str
    largest: float
    """Magnitude; infinite or no number where the result is."""

    @property
    def is_beyond(self) -> bool:
        """Whether fp16 cannot hold it."""
        return not self.largest <= LARGEST


class Watched:
    """A model in ONNX Runtime that notes how far the results of its operators reach. It is a `Session`."""

    def __init__(self, model: ModelProto, threads: int = 1) -> None:
        nodes = [node for node in model.graph.node if node.op_type != "Cast"]
        types = _types(model)
        self._names = [name for node in nodes for name in node.output if types.get(name) == TensorProto.FLOAT]
        self._outputs = len(model.graph.output)
        content = _with_largest(model, self._names).SerializeToString()
        self._session = OnnxRuntime().open(content, LocalTarget("half", "onnxruntime", threads=threads))
        self._largest = np.zeros(len(self._names))

    @property
    def inputs(self) -> Mapping[str, Shape]:
        """The shapes of the model's inputs."""
        return self._session.inputs

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Return the model's outputs."""
        found = self._session.run(feeds)
        self._largest = np.maximum(self._largest, np.array(found[self._outputs :]).reshape(-1))
        return found[: self._outputs]

    def call(self) -> None:
        """Run on fixed inputs, which are not noted."""
        self._session.call()

    def close(self) -> None:
        """Give back the memory."""
        self._session.close()

    def largest(self) -> dict[str, float]:
        """Magnitudes so far, by the name of the result, in the order in which they are computed."""
        return dict(zip(self._names, self._largest.tolist(), strict=True))


def _types(model: ModelProto) -> dict[str, int]:
    """Element types of what operators give."""
    graph = infer_shapes(model).graph
    return {each.name: each.type.tensor_type.elem_type for each in (*graph.value_info, *graph.output)}


def _with_largest(model: ModelProto, names: Iterable[str]) -> ModelProto:
    """Return a copy with an output for each of these tensors: its largest magnitude."""
    made = ModelProto()
    made.CopyFrom(model)
    for name in names:
        made.graph.node.append(helper.make_node("Abs", [name], [f"{name}.magnitude"]))
        made.graph.node.append(helper.make_node("ReduceMax", [f"{name}.magnitude"], [f"{name}.largest"], keepdims=0))
        made.graph.output.append(helper.make_tensor_value_info(f"{name}.largest", TensorProto.FLOAT, []))
    return made


def rounded(model: bytes) -> ModelProto:
    """A model in fp16 as one in fp32 that computes the same: each result is rounded to fp16 before it is handed on.

    Results bear the suffix `.exact` before they are rounded.
    """
    half = onnx.load_from_string(model)
    types = _types(half)
    made = ModelProto()
    made.CopyFrom(half)
    graph = made.graph
    for tensor in [each for each in graph.initializer if each.data_type == TensorProto.FLOAT16]:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    del graph.node[:], graph.value_info[:]
    for node in half.graph.node:
        graph.node.extend(_rounding(node, types))
    return made


def _rounding(node: NodeProto, types: Mapping[str, int]) -> list[NodeProto]:
    copy = NodeProto()
    copy.CopyFrom(node)
    if node.op_type == "Cast" and helper.get_node_attr_value(node, "to") in (TensorProto.FLOAT, TensorProto.FLOAT16):
        copy = helper.make_node("Identity", node.input, node.output, node.name)
    nodes = [copy]
    for place, name in enumerate(node.output):
        if types.get(name) == TensorProto.FLOAT16:
            copy.output[place] = f"{name}.exact"
            nodes.append(helper.make_node("Cast", [f"{name}.exact"], [f"{name}.half"], to=TensorProto.FLOAT16))
            nodes.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    return nodes


def furthest(model: ModelProto, largest: Mapping[str, float]) -> Reach:
    """Return, of what a `rounded` model rounds: the first result that fp16 cannot hold, else the one that reaches
    furthest."""
    reaches = [
        Reach(_title(node), largest[name])
        for node in model.graph.node
        for name in node.output
        if name.endswith(".exact") and name in largest
    ]
    beyond = next((reach for reach in reaches if reach.is_beyond), None)
    return beyond or max(reaches, key=lambda reach: reach.largest)


@dataclass(frozen=True)
class Unfit:
    """What of a model in fp32 has to stay there."""

    operators: tuple[str, ...] = ()
    """Names of nodes: those that give or take what fp16 cannot hold."""
    reason: str = ""
    """Why the first of them is one."""
    layers: int = 0
    """How many of them have weights."""


def unfit(model: bytes, batches: Iterable[Array]) -> Unfit:
    """The operators that fp16 does not suit, by what they compute from images `[N, 3, side, side]`, and by weights.

    Results have to be below half of what fp16 can hold, since other images give others, and weights below all of it.
    Neither may be so small throughout that fp16 loses their digits.
    """
    loaded = onnx.load_from_string(model)
    watched = Watched(loaded)
    (given,) = watched.inputs
    for batch in batches:
        watched.run({given: batch})
    watched.close()
    far = {name: value for name, value in watched.largest().items() if not _NORMAL <= value <= LARGEST / _MARGIN}
    # A result of nothing but zeros is one in fp16, too.
    far = {name: value for name, value in far.items() if value != 0}
    weights = {tensor.name: _unfit_weight(numpy_helper.to_array(tensor)) for tensor in loaded.graph.initializer}
    reasons = {node.name: reason for node in loaded.graph.node if (reason := _reason(node, far, weights)) is not None}
    first = next(iter(reasons.values()), "")
    kept = [node for node in loaded.graph.node if node.name in reasons]
    return Unfit(tuple(reasons), first, sum(node.op_type in LAYERS for node in kept))


def _unfit_weight(values: Array) -> float | None:
    """Return the largest magnitude of a weight, if that does not suit fp16.

    A bias that is small throughout says nothing, and may.
    """
    if values.dtype != np.float32 or values.size == 0:
        return None
    largest = float(np.abs(values).max())
    small = values.ndim > 1 and 0 < largest < _NORMAL
    return largest if small or not largest <= LARGEST else None


def _reason(node: NodeProto, far: Mapping[str, float], weights: Mapping[str, float | None]) -> str | None:
    for name in (*node.output, *node.input):
        if name in far:
            whose = "the result" if name in node.output else "an input"
            return f"{whose} of {_title(node)} {_distance(far[name])}"
        if (weight := weights.get(name)) is not None:
            return f"a weight of {_title(node)} {_distance(weight)}"
    return None


def _distance(largest: float) -> str:
    """Return how far a number is from what fp16 holds, in words."""
    if largest < _NORMAL:
        return f"has magnitudes of {largest:.3g} at most, and fp16 loses digits below {_NORMAL:.2g}"
    return f"reaches {largest:.3g}, and fp16 ends at {LARGEST:.0f}"


def _title(node: NodeProto) -> str:
    return f"{node.op_type} {node.name}"
