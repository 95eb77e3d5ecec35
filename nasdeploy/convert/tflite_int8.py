"""`.tflite` files in int8, by ai-edge-quantizer: weights with a scale for each output channel, activations with one.

Ranges of activations are from the smallest to the largest number that calls give. What is taken and given stays fp32.
"""

import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from typing import Any, Literal

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import without_logs
from nasdeploy.runtimes.runtime import Array, silenced

TFLITE_RANGES: Literal["minmax"] = "minmax"
"""How ranges are found."""
_LAYERS = ("conv_2d", "depthwise_conv_2d", "fully_connected")
"""What the names of tensors begin with that operators with weights give."""
_SIGNATURE = "serving_default"
_KEPT = "no_quantize"


class TfliteQuantiser:
    """Quantises a file as often as one likes; the ranges are found once."""

    def __init__(self, model: bytes, calls: Iterable[Mapping[str, Array]]) -> None:
        """`calls` are the inputs of calls by name, of the file's batch. Raises `UserError` without the package."""
        if not find_spec("ai_edge_quantizer"):
            raise UserError(
                "format litert in int8: ai-edge-quantizer is not installed; run: pip install ai-edge-quantizer"
            )
        self._model = model
        self.layers = tuple(name for name in _outputs(model) if name.rpartition(".")[0] in _LAYERS)
        self._ranges = _ranges(model, calls)

    def quantised(self, kept: Collection[str] = (), model: bytes | None = None) -> bytes:
        """Return the file in int8, but for the layers `kept`, which stay in fp32; or `model`, of another batch."""
        quantizer = _quantizer(self._model if model is None else model, kept)
        with _silent():
            return bytes(quantizer.quantize(self._ranges).quantized_model)


def _ranges(model: bytes, calls: Iterable[Mapping[str, Array]]) -> Any:
    """Return the smallest and largest numbers of each tensor, by its name; of one call after the other."""
    from ai_edge_quantizer import calibrator
    from ai_edge_quantizer.recipe_manager import RecipeManager
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

    with _silent():
        found = calibrator.Calibrator(
            model,
            num_threads=1,
            mode=calibrator.CalibrationMode.CALIBRATION_PROFILER_BASED,
            # By default the first call's count twenty times as much as any other's.
            qsv_update_func=min_max_update,
        )
        for feeds in calls:
            found.calibrate({_SIGNATURE: [dict(feeds)]}, RecipeManager())
    return found.get_model_qsvs()


def _quantizer(model: bytes, kept: Collection[str]) -> Any:
    from ai_edge_quantizer import quantizer, recipe
    from ai_edge_quantizer.qtyping import TFLOperationName as Name

    made = quantizer.Quantizer(model, recipe.static_wi8_ai8())
    for name in (Name.INPUT, Name.OUTPUT):
        made.update_quantization_recipe(".*", name, algorithm_key=_KEPT)
    for layer in kept:
        # Operators go by the names of what they give, each followed by a semicolon.
        made.update_quantization_recipe(f"^{re.escape(layer)};?$", Name.ALL_SUPPORTED, algorithm_key=_KEPT)
    return made


def _outputs(model: bytes) -> list[str]:
    """Return the names of what operators give, in their order."""
    from ai_edge_litert.schema_py_generated import Model

    graph = Model.GetRootAs(model).Subgraphs(0)
    numbers = [graph.Operators(place).Outputs(0) for place in range(graph.OperatorsLength())]
    return [graph.Tensors(number).Name().decode() for number in numbers]


@contextmanager
def _silent() -> Iterator[None]:
    """Leave out the quantizer's bars and sizes."""
    with silenced(), without_logs(), redirect_stdout(StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
