"""MNN files, converted from ONNX in this process: 2 ms for a block.

The converter is the extension `_tools` of MNN's package. It is imported without `MNN.tools`, the Python modules around
it, which install a package by pip when they are imported and report each conversion to a server.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from nasdeploy.core.errors import ConversionRefused, one_line
from nasdeploy.runtimes.mnn import printed_apart
from nasdeploy.runtimes.mnn_file import FlatTable
from nasdeploy.runtimes.runtime import Model, Target

if TYPE_CHECKING:
    from nasdeploy.convert.measured import MeasuredModule

_HALF = "fp16"
_NUMBER = 11
"""The place of a file's number, `Net.mnn_uuid`, in MNN's schema."""
_UNKNOWN = re.compile(r"Op Not Support: (.+)")


def to_mnn(model: bytes, *, half: bool) -> bytes:
    """Return an ONNX model as a `.mnn` file, `half`: with weights in fp16. Its inputs and outputs are in fp32.

    Equal models give equal bytes. Raises `ConversionRefused` for what MNN does not convert.
    """
    with printed_apart():
        import _tools

    with TemporaryDirectory(prefix="nasdeploy-mnn-") as folder:
        source, made = Path(folder, "model.onnx"), Path(folder, "model.mnn")
        source.write_bytes(_rounded(model) if half else model)
        options = {"modelFile": str(source), "MNNModel": str(made), "bizCode": "nasdeploy"}
        words = ["mnnconvert", "-f", "ONNX", *(word for name in options for word in (f"--{name}", options[name]))]
        words += [f"--{_HALF}"] * half
        with printed_apart() as printed:
            _tools.mnnconvert(words)
        if not made.is_file():
            raise ConversionRefused(f"MNN does not convert it ({_reason(printed.text.replace(str(source), 'it'))})")
        content = made.read_bytes()
    # It numbers its files by chance.
    number = FlatTable.root(content).string(_NUMBER).encode()
    return content.replace(number, b"0" * len(number), 1) if number else content


def _rounded(model: bytes) -> bytes:
    """Return a model whose weights are numbers of fp16 already.

    MNN cuts digits off where others round, and so makes all weights smaller: over the 80 layers of AlphaNet's a0 that
    moved logits by 1.8 % of their spread, against 0.1 %.
    """
    loaded = onnx.load_from_string(model)
    for tensor in loaded.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1:
            values = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    content: bytes = loaded.SerializeToString(deterministic=True)
    return content


def _reason(said: str) -> str:
    """Return what the converter says of an operator that it lacks, else of the first thing that went wrong."""
    unknown = _UNKNOWN.search(said)
    if unknown is not None:
        return f"it has no operator {one_line(unknown[1]).removeprefix('ONNX::')}"
    lines = [line for line in said.splitlines() if "Check failed" in line or "[ERROR]" in line]
    return one_line(lines[0]) if lines else "it says no more"


class MnnConverter:
    """MNN's files. What is measured in fp16 takes and gives fp32, single blocks too, which costs them copies."""

    together = 1

    def convert(self, modules: Sequence["MeasuredModule"], device: Target) -> list[Model | ConversionRefused]:
        """Return `.mnn` files."""
        return [self._converted(each, device) for each in modules]

    def _converted(self, measured: "MeasuredModule", device: Target) -> Model | ConversionRefused:
        try:
            return to_mnn(measured.onnx(device.batch), half=device.precision == "fp16")
        except ConversionRefused as refusal:
            return refusal
