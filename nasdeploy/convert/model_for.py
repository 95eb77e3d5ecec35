"""The model that is measured for a module: in the form and the precision that a device wants."""

from collections.abc import Sequence

from torch import nn

from nasdeploy.convert.fast_export import quick_onnx
from nasdeploy.convert.onnx import fixed_onnx
from nasdeploy.convert.precision import to_fp16, to_int8_of_random_ranges
from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import TensorType
from nasdeploy.nn.network import Network, NetworkPart, StaticBlock
from nasdeploy.runtimes import described_runtime
from nasdeploy.runtimes.runtime import Model, Target, TorchModel


def model_for(module: nn.Module, inputs: Sequence[TensorType], device: Target) -> Model:
    """Return `module` for inputs of these types and the device's batch, in evaluation mode.

    In int8 it has random ranges: it is as fast as a calibrated one and as good as none. In fp16 whole networks take and
    give fp32, as when they are delivered; single blocks do not, since inside a network nothing is converted.
    Raises `UserError` if the device's runtime is unknown, lacks the precision, or runs exported files only.
    """
    form = described_runtime(device).form
    if form == "program":
        raise UserError(
            f"device {device.name}: {device.runtime} runs files that were exported for it, which takes too long for "
            "each of many networks; use another device, e.g. cpu"
        )
    if form == "module":
        return TorchModel(module.eval(), {f"input.{number}": tensor for number, tensor in enumerate(inputs)})
    whole = isinstance(module, Network | NetworkPart)
    own = whole or isinstance(module, StaticBlock)
    model = (quick_onnx if own else fixed_onnx)(module, inputs, device.batch)
    if device.precision == "fp16":
        return to_fp16(model, keep_io_types=whole)
    if device.precision == "int8":
        return to_int8_of_random_ranges(model, device.runtime)
    return model
