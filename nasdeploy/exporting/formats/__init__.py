"""Formats of exported models by name, and what an export is asked to make, checked before any work. Torch-free.

A new format is a class of this package and a line here.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nasdeploy.core.errors import UserError, listed, lookup, suggestion
from nasdeploy.exporting.formats.format import Format
from nasdeploy.exporting.formats.litert import LiteRtFormat
from nasdeploy.exporting.formats.mnn import MnnFormat
from nasdeploy.exporting.formats.ncnn import NcnnFormat
from nasdeploy.exporting.formats.onnx import OnnxFormat, OpenVinoFormat
from nasdeploy.exporting.formats.tensorrt import (
    TensorRtFormat,
    TensorRtRtxFormat,
    TorchTensorRtFormat,
    parse_capabilities,
)
from nasdeploy.exporting.formats.torch import ExecuTorchFormat, TorchFormat
from nasdeploy.runtimes import described_runtime, runtime_of
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Precision

FORMATS: Mapping[str, Format] = {
    "onnx": OnnxFormat(),
    "openvino": OpenVinoFormat(),
    "ncnn": NcnnFormat(),
    "mnn": MnnFormat(),
    "litert": LiteRtFormat(),
    "executorch": ExecuTorchFormat(),
    "torch": TorchFormat(),
    "torch-tensorrt": TorchTensorRtFormat(),
    "tensorrt": TensorRtFormat(),
    "tensorrt-rtx": TensorRtRtxFormat(),
}


PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class ExportJob:
    """One model to make."""

    name: str
    """The name of the format."""
    form: Format
    precision: Precision
    device: Device
    """The device, with the runtime that opens the file."""
    capabilities: tuple[str, ...] = ()
    not_run: str | None = None
    """Why it cannot run here."""


def parse_precision(text: str) -> Precision:
    """Return the precision called `text`; raises `UserError` if there is none."""
    for precision in PRECISIONS:
        if precision == text:
            return precision
    raise UserError(f"unknown precision '{text}'{suggestion(text, PRECISIONS)}")


def plan_jobs(
    formats: Sequence[str], device: Device, precision: str | None = None, capabilities: Sequence[str] = ()
) -> tuple[ExportJob, ...]:
    """Return a job for each format; names may be given as lists with commas, and count once.

    `precision` is by default the device's. Raises `UserError` for a format, precision or compute capability that is
    unknown, and for what the format, its runtime or this machine cannot do.
    """
    wanted = parse_precision(precision) if precision else device.precision
    chosen = {name: lookup("format", FORMATS, name) for name in listed(formats)}
    if not chosen:
        raise UserError(f"no format given; known: {', '.join(FORMATS)}")
    ahead = parse_capabilities(capabilities)
    if ahead and not any(form.ahead_of_time for form in chosen.values()):
        able = ", ".join(name for name, form in FORMATS.items() if form.ahead_of_time)
        raise UserError(f"`compute_capability` is for format {able}; leave it out, or ask for that format too")
    return tuple(_job(name, form, wanted, device, ahead if form.ahead_of_time else ()) for name, form in chosen.items())


def _job(name: str, form: Format, precision: Precision, device: Device, capabilities: tuple[str, ...]) -> ExportJob:
    if precision not in form.precisions:
        able = " or ".join(form.precisions)
        raise UserError(f"format {name} does not hold {precision}; use `precision={able}`, or another format")
    missing = form.missing()
    if missing is not None:
        raise UserError(f"format {name}: its package is missing or too old; run: {missing}")
    obstacle = form.obstacle()
    if obstacle is not None:
        raise UserError(f"format {name} cannot be made here: {obstacle}")
    not_run = form.not_run(capabilities)
    if not_run is not None and not capabilities:
        raise UserError(f"format {name}: {not_run}; or build for other GPUs: `compute_capability`, e.g. sm86,sm89")
    target = device_for(form, device, precision)
    # What the runtime lacks is better found before the work than after it.
    (runtime_of if not_run is None else described_runtime)(target)
    return ExportJob(name, form, precision, target, capabilities, not_run)


def device_for(form: Format, device: Device, precision: Precision) -> Device:
    """Return `device` with the runtime that opens files of `form`; raises `UserError` for a device that is not here."""
    runtime = form.runtime(device)
    if runtime == device.runtime:
        return device.model_copy(update={"precision": precision})
    if not device.is_local:
        raise UserError(
            f"device {device.name}: its networks run on another machine, not on this one; use a local device, e.g. cpu"
        )
    # What the device tells its own runtime means nothing to another one.
    name = f"{device.name}-{runtime}"
    return device.model_copy(update={"name": name, "runtime": runtime, "precision": precision, "options": {}})


@dataclass(frozen=True)
class Extras:
    """What is asked for beside the models."""

    triton: bool = False
    """A model repository for Triton."""
    embedded: bool = False
    """ONNX files that preprocess by themselves."""

    def require(self, formats: Iterable[str]) -> None:
        """Raise `UserError` unless models of these formats can have them."""
        chosen = [FORMATS[name] for name in formats]
        if self.triton and not any(form.backend for form in chosen):
            served = ", ".join(name for name, form in FORMATS.items() if form.backend)
            raise UserError(f"`layout=triton`: Triton serves {served}; add one of them with `format`, or leave it out")
        if self.embedded and not any(form.embeds for form in chosen):
            raise UserError("`embed_preprocessing` is for format onnx; add it with `format`, or leave it out")
