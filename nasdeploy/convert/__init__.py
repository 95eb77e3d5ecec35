"""From PyTorch modules to what runtimes open."""

from nasdeploy.convert.measured import model_for
from nasdeploy.convert.onnx import to_onnx
from nasdeploy.convert.quick import quick_onnx

__all__ = ["model_for", "quick_onnx", "to_onnx"]
