"""From PyTorch modules to what runtimes open."""

from nasdeploy.convert.fast_export import quick_onnx
from nasdeploy.convert.measured import MeasuredModule, model_for, models_for
from nasdeploy.convert.onnx import to_onnx

__all__ = ["MeasuredModule", "model_for", "models_for", "quick_onnx", "to_onnx"]
