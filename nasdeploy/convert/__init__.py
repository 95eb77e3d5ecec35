"""From PyTorch modules to what runtimes open."""

from nasdeploy.convert.fast_export import quick_onnx
from nasdeploy.convert.model_for import model_for
from nasdeploy.convert.onnx import to_onnx

__all__ = ["model_for", "quick_onnx", "to_onnx"]
