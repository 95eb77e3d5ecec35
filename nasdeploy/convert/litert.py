"""Modules as `.tflite` files: what is delivered, and what is measured, with the same operators."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from nasdeploy.convert.fast_export import quick_onnx
from nasdeploy.convert.onnx import fixed_onnx
from nasdeploy.convert.tflite import to_tflite
from nasdeploy.convert.tflite_int8 import TfliteQuantiser
from nasdeploy.convert.tflite_translation import UnknownOperator
from nasdeploy.core.errors import ConversionRefused
from nasdeploy.nn.network import Network, StaticBlock
from nasdeploy.runtimes.runtime import VALUES, Model, Target, random_input
from nasdeploy.runtimes.tflite_file import read_tflite

if TYPE_CHECKING:
    from nasdeploy.convert.measured import MeasuredModule

_CALLS = 2
"""The number of random inputs; ranges for latency need no more."""


def network_tflite(network: Network, batch: int, *, half: bool = False) -> bytes:
    """Return the deliverable of a network of images of one part: NCHW, of a fixed batch, in evaluation mode.

    Raises `ConversionRefused` for a network with an operator that LiteRT has no counterpart for.
    """
    ((_, tensor),) = network.plan.only.inputs
    try:
        return to_tflite(quick_onnx(network, [tensor], batch), half=half, names=("input", "logits"))
    except (UnknownOperator, NotImplementedError) as error:
        raise ConversionRefused(f"LiteRT: {error}; use another format") from None


class TfliteConverter:
    """LiteRT's files. Blocks take and give images with their channels last, as inside a network, where none is turned;
    whatever the precision, what is taken and given is fp32. In int8 ranges are random."""

    together = 1

    def convert(self, modules: "Iterable[MeasuredModule]", device: Target) -> list[Model | ConversionRefused]:
        """Return files of the device's batch."""
        return [self._converted(each, device) for each in modules]

    def _converted(self, measured: "MeasuredModule", device: Target) -> bytes | ConversionRefused:
        block = isinstance(measured.module, StaticBlock)
        onnx = (quick_onnx if block or measured.is_whole else fixed_onnx)(
            measured.module, measured.inputs, device.batch
        )
        values = {f"input.{number}": each.values for number, each in enumerate(measured.inputs)}
        notes = {f"{VALUES}{name}": str(count).encode() for name, count in values.items() if count}
        try:
            model = to_tflite(onnx, half=device.precision == "fp16", inside=block, notes=notes)
        except UnknownOperator as error:
            return ConversionRefused(f"LiteRT: {error}; use another runtime")
        return _with_random_ranges(model, values) if device.precision == "int8" else model


def _with_random_ranges(model: bytes, values: Mapping[str, int | None]) -> bytes:
    """Return a file in int8 for latency only: as fast as a calibrated one, and as good as none."""
    rng = np.random.default_rng(0)
    given = read_tflite(model).inputs
    calls = (
        {each.name: random_input(each.shape, each.dtype, values.get(each.name), rng) for each in given}
        for _ in range(_CALLS)
    )
    return TfliteQuantiser(model, calls).quantised()
