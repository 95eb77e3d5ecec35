"""ONNX models in other precisions. The precision stands in the file: that is what every runtime understands."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from nasdeploy.convert.quantise import RECIPES, layers_of, options_of, weights_only

_BATCHES = 2
"""Of random inputs; ranges for latency need no more."""


def to_fp16(model: bytes, *, keep_io_types: bool = True) -> bytes:
    """Weights and operators in fp16; inputs and outputs stay fp32 if `keep_io_types`."""
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    converted = convert_float_to_float16(onnx.load_from_string(model), keep_io_types=keep_io_types)
    # It appends the casts, and ONNX wants nodes after those that they read.
    OnnxModel(converted).topological_sort()
    content: bytes = converted.SerializeToString(deterministic=True)
    return content


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
        return quantised.read_bytes()


class _RandomInputs:
    """A calibration data reader: a dictionary of inputs at a time, then None."""

    def __init__(self, model: bytes) -> None:
        inputs = onnx.load_from_string(model).graph.input
        self._shapes = {each.name: [size.dim_value for size in each.type.tensor_type.shape.dim] for each in inputs}
        self._remaining = _BATCHES
        self._rng = np.random.default_rng(0)

    def get_next(self) -> Mapping[str, Any] | None:
        if self._remaining == 0:
            return None
        self._remaining -= 1
        return {name: self._rng.standard_normal(shape).astype(np.float32) for name, shape in self._shapes.items()}
