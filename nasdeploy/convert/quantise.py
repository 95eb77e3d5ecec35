"""ONNX models in int8, with ranges of activations from real images.

Quantised operators are written as pairs of QuantizeLinear and DequantizeLinear (QDQ), which runtimes read differently:
a recipe says how each wants them. Weights have a scale for each output channel.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, Protocol

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from nasdeploy.convert.versions import lowest
from nasdeploy.core.progress import without_logs
from nasdeploy.runtimes.runtime import Array

LAYERS = ("Conv", "Gemm", "MatMul")
"""Operators with weights."""
RANGES: Literal["percentile"] = "percentile"
"""How ranges are found: 0.001 % of the values may lie outside. On a digits network logits are then off by 0.26 % of
their spread, by 0.31 % with smallest and largest values, and by 0.43 % with least entropy."""
_METHOD = "Percentile"
_LARGEST = 127


@dataclass(frozen=True)
class QuantisationRecipe:
    """How a runtime wants quantised operators to be written."""

    activations: bool = True
    """Quantise them too; else only weights, which are expanded again before they are used."""
    symmetric: bool = False
    """Activations with sign around 0; else without sign, from any smallest value."""
    operators: tuple[str, ...] = ()
    """The operators that are quantised; empty for all that ONNX Runtime can."""
    on_processor: bool = True
    """It runs on this machine's processor, which may overflow (`processor.saturates`)."""


_PROCESSOR = QuantisationRecipe()
# TensorRT takes no zero points, fuses what follows a layer by itself, and keeps biases in fp32.
_TENSORRT = QuantisationRecipe(symmetric=True, operators=(*LAYERS, "Add"), on_processor=False)
# TensorRT for RTX refuses convolutions of quantised activations.
_WEIGHTS = QuantisationRecipe(activations=False, on_processor=False)

RECIPES: Mapping[str, QuantisationRecipe] = {
    "onnxruntime": _PROCESSOR,
    "openvino": _PROCESSOR,
    "tensorrt": _TENSORRT,
    "tensorrt-rtx": _WEIGHTS,
}
"""The recipes by runtime."""


class LayerQuantiser(Protocol):
    """Makes one model in int8, with any of its layers in fp32."""

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of what has weights, in order."""

    def quantised(self, kept: Collection[str] = ()) -> bytes:
        """Return the model in int8, but for the layers `kept`, which stay in fp32."""


class Quantiser:
    """Quantises one model of fp32 as often as one likes; the ranges are found once."""

    def __init__(
        self, model: bytes, recipe: QuantisationRecipe, batches: Iterable[Array], *, reduce_range: bool
    ) -> None:
        """`batches` `[N, 3, side, side]` are real images; `reduce_range`: weights in seven bits."""
        self._model, self._recipe, self._reduced = onnx.load_from_string(model), recipe, reduce_range
        self._ranges = _ranges(model, recipe, batches) if recipe.activations else b""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the operators with weights, in order."""
        return layers_of(self._model)

    def quantised(self, kept: Collection[str] = ()) -> bytes:
        """The model in int8, but for the layers `kept`, which stay in fp32."""
        if self._recipe.activations:
            model = self._with_activations(kept)
        else:
            model = weights_only(self._model, [name for name in self.layers if name not in kept])
        content: bytes = _cleaned(model).SerializeToString(deterministic=True)
        return content

    def _with_activations(self, kept: Collection[str]) -> ModelProto:
        from onnxruntime.quantization import CalibrationMethod, quantize_static

        with TemporaryDirectory() as folder, _silent():
            ranges, out = Path(folder, "ranges.json"), Path(folder, "quantised.onnx")
            ranges.write_bytes(self._ranges)
            quantize_static(
                self._model,
                out,
                calibration_cache_path=ranges,
                calibrate_method=CalibrationMethod[_METHOD],
                nodes_to_exclude=list(kept),
                reduce_range=self._reduced,
                **options_of(self._recipe),
            )
            return onnx.load(out)


def layers_of(model: ModelProto) -> tuple[str, ...]:
    """Names of the operators with weights, in order."""
    return tuple(node.name for node in model.graph.node if node.op_type in LAYERS)


def options_of(recipe: QuantisationRecipe) -> dict[str, Any]:
    """What `quantize_static` is told for a recipe with quantised activations."""
    from onnxruntime.quantization import QuantFormat, QuantType

    return {
        "quant_format": QuantFormat.QDQ,
        "op_types_to_quantize": list(recipe.operators),
        "per_channel": True,
        "activation_type": QuantType.QInt8 if recipe.symmetric else QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
        "extra_options": {"ActivationSymmetric": recipe.symmetric, "QuantizeBias": not recipe.symmetric},
    }


def _ranges(model: bytes, recipe: QuantisationRecipe, batches: Iterable[Array]) -> bytes:
    """Ranges of the tensors, in the form that `quantize_static` reads; of one batch after the other, to save memory."""
    from onnxruntime.quantization import CalibrationMethod, create_calibrator
    from onnxruntime.quantization.calibrate import save_tensors_data

    with TemporaryDirectory() as folder, _silent():
        source, ranges = Path(folder, "model.onnx"), Path(folder, "ranges.json")
        source.write_bytes(model)
        calibrator = create_calibrator(
            source,
            list(recipe.operators) or None,
            str(Path(folder, "augmented.onnx")),
            calibrate_method=CalibrationMethod[_METHOD],
            extra_options={"symmetric": recipe.symmetric},
        )
        (given,) = onnx.load_from_string(model).graph.input
        for batch in batches:
            calibrator.collect_data(_Reader({given.name: batch}))
        save_tensors_data(calibrator.compute_data(), ranges)
        return ranges.read_bytes()


class _Reader:
    """A calibration data reader of one batch: a dictionary of inputs, then None."""

    def __init__(self, feeds: Mapping[str, Array]) -> None:
        self._feeds = iter([feeds])

    def get_next(self) -> Mapping[str, Array] | None:
        return next(self._feeds, None)


def weights_only(model: ModelProto, layers: Sequence[str]) -> ModelProto:
    """A copy in which the weights of these layers are int8 and expanded by DequantizeLinear."""
    made = ModelProto()
    made.CopyFrom(model)
    graph, wanted = made.graph, set(layers)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    for node in graph.node:
        name = node.input[1] if node.name in wanted else ""
        if name in weights:
            axis = _output_axis(node)
            values = numpy_helper.to_array(weights.pop(name))
            integers, scales = _integers(values, axis)
            parts = {f"{name}.int8": integers, f"{name}.scale": scales}
            graph.initializer.remove(next(tensor for tensor in graph.initializer if tensor.name == name))
            graph.initializer.extend(numpy_helper.from_array(array, part) for part, array in parts.items())
            nodes.append(helper.make_node("DequantizeLinear", list(parts), [name], f"{name}.expand", axis=axis))
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return made


def _output_axis(node: NodeProto) -> int:
    """Return the axis of a layer's weight: that of output channels."""
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if node.op_type == "Conv" or transposed else 1


def _integers(values: Array, axis: int) -> tuple[Array, Array]:
    """Weights in int8 and the scale of each channel along `axis`."""
    others = tuple(each for each in range(values.ndim) if each != axis)
    largest = np.abs(values).max(axis=others, keepdims=True)
    scales = np.where(largest > 0, largest, 1).astype(np.float32) / _LARGEST
    return np.rint(values / scales).astype(np.int8), scales.reshape(-1)


def _cleaned(model: ModelProto) -> ModelProto:
    """Return the model without what tools noted about themselves, and without domains of operators that are not
    used."""
    lowest(model)
    del model.metadata_props[:]
    return model


@contextmanager
def _silent() -> Iterator[None]:
    """Leave out the quantiser's reports, and its advice to optimise a model first that is exported folded."""
    with without_logs(), redirect_stdout(StringIO()):
        yield


_CPUINFO = Path("/proc/cpuinfo")


def saturates(cpuinfo: Path = _CPUINFO) -> bool:
    """Return whether products of 8-bit integers overflow here: on x86 without VNNI pairs of them are added in 16 bits.

    False where it cannot be read: processors of other kinds do not have this.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return "sse2" in flags and not any("vnni" in flag for flag in flags)
