"""Deployment runtimes by name. A new one is a file of this package and a line here."""

from collections.abc import Mapping

from nasdeploy.core.errors import UserError, suggestion
from nasdeploy.runtimes.executorch import ExecuTorch
from nasdeploy.runtimes.litert import LiteRt
from nasdeploy.runtimes.mnn import Mnn
from nasdeploy.runtimes.ncnn import Ncnn
from nasdeploy.runtimes.onnxruntime import OnnxRuntime, OnnxRuntimeCuda
from nasdeploy.runtimes.openvino import OpenVino
from nasdeploy.runtimes.pytorch import PyTorch
from nasdeploy.runtimes.runtime import HERE_ONLY, Runtime, Target
from nasdeploy.runtimes.tensorrt import TensorRt

RUNTIMES: Mapping[str, Runtime] = {
    "onnxruntime": OnnxRuntime(),
    "onnxruntime-cuda": OnnxRuntimeCuda(),
    "openvino": OpenVino(),
    "ncnn": Ncnn(),
    "mnn": Mnn(),
    "litert": LiteRt(),
    "tensorrt": TensorRt("tensorrt", "tensorrt"),
    "tensorrt-rtx": TensorRt("tensorrt_rtx", "tensorrt-rtx-cu13"),
    "torch": PyTorch(),
    "executorch": ExecuTorch(),
}


def described_runtime(device: Target) -> Runtime:
    """Return the device's runtime, installed or not; raises `UserError` if it is unknown or lacks the precision."""
    if device.runtime not in RUNTIMES:
        known = suggestion(device.runtime, RUNTIMES)
        raise UserError(f"device {device.name}: unknown runtime '{device.runtime}'{known}")
    runtime = RUNTIMES[device.runtime]
    if device.precision not in runtime.precisions:
        able = " or ".join(runtime.precisions)
        raise UserError(f"device {device.name}: {device.runtime} does not run {device.precision}; use {able}")
    if runtime.form in HERE_ONLY and not device.is_local:
        raise UserError(
            f"device {device.name}: {device.runtime} runs on this machine only; use another runtime on a board"
        )
    if runtime.largest_batch is not None and device.batch > runtime.largest_batch:
        raise UserError(
            f"device {device.name}: {device.runtime} takes at most {runtime.largest_batch} image(s) in a call, and the "
            f"device's batch is {device.batch}; write batch: {runtime.largest_batch}"
        )
    return runtime


def runtime_of(device: Target) -> Runtime:
    """Return the device's runtime, ready to run; raises `UserError` if it is not, or the device is elsewhere."""
    runtime = described_runtime(device)
    if not device.is_local:
        raise UserError(
            f"device {device.name}: its networks run on another machine, not on this one; use a local device, e.g. cpu"
        )
    missing = runtime.missing()
    if missing is not None:
        raise UserError(f"device {device.name}: {device.runtime} is not installed; run: {missing}")
    obstacle = runtime.obstacle()
    if obstacle is not None:
        raise UserError(f"device {device.name}: {device.runtime} cannot run here: {obstacle}")
    return runtime
