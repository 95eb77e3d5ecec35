"""Formats of exported models by name. A new one is a file of this package and a line here."""

from collections.abc import Mapping

from nasdeploy.exporting.formats.executorch import ExecuTorchFormat
from nasdeploy.exporting.formats.format import Format
from nasdeploy.exporting.formats.onnx import OnnxFormat
from nasdeploy.exporting.formats.openvino import OpenVinoFormat
from nasdeploy.exporting.formats.tensorrt import TensorRtFormat, TensorRtRtxFormat, TorchTensorRtFormat
from nasdeploy.exporting.formats.torch import TorchFormat

FORMATS: Mapping[str, Format] = {
    "onnx": OnnxFormat(),
    "openvino": OpenVinoFormat(),
    "executorch": ExecuTorchFormat(),
    "torch": TorchFormat(),
    "torch-tensorrt": TorchTensorRtFormat(),
    "tensorrt": TensorRtFormat(),
    "tensorrt-rtx": TensorRtRtxFormat(),
}
