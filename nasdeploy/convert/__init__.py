"""From PyTorch modules to what runtimes open."""

from nasdeploy.convert.fast_export import quick_onnx
from nasdeploy.convert.onnx import model_for, to_onnx

__all__ = ["model_for", "quick_onnx", "to_onnx"]
