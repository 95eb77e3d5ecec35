"""Deployment runtimes by name. A new one is a file of this package and a line here."""

from collections.abc import Mapping

from nasdeploy.errors import UserError
from nasdeploy.registry import suggestion
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.onnxruntime import OnnxRuntime
from nasdeploy.runtimes.runtime import Runtime

RUNTIMES: Mapping[str, Runtime] = {
    "onnxruntime": OnnxRuntime(),
}


def runtime_of(device: Device) -> Runtime:
    """The device's runtime; raises `UserError` if it is unknown or not installed."""
    if device.runtime not in RUNTIMES:
        known = suggestion(device.runtime, RUNTIMES)
        raise UserError(f"device {device.name}: unknown runtime '{device.runtime}'{known}")
    runtime = RUNTIMES[device.runtime]
    missing = runtime.missing()
    if missing is not None:
        raise UserError(f"device {device.name}: {device.runtime} is not installed; run: {missing}")
    return runtime
