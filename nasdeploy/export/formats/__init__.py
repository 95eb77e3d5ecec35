"""Formats of exported models by name. A new one is a file of this package and a line here."""

from collections.abc import Mapping

from nasdeploy.export.formats.executorch import ExecuTorchFormat
from nasdeploy.export.formats.format import Format
from nasdeploy.export.formats.onnx import OnnxFormat
from nasdeploy.export.formats.openvino import OpenVinoFormat
from nasdeploy.export.formats.tensorrt import TensorRtFormat, TensorRtRtxFormat
from nasdeploy.export.formats.torch import TorchFormat
from nasdeploy.export.formats.torch_tensorrt import TorchTensorRtFormat

FORMATS: Mapping[str, Format] = {
    "onnx": OnnxFormat(),
    "openvino": OpenVinoFormat(),
    "executorch": ExecuTorchFormat(),
    "torch": TorchFormat(),
    "torch-tensorrt": TorchTensorRtFormat(),
    "tensorrt": TensorRtFormat(),
    "tensorrt-rtx": TensorRtRtxFormat(),
}
