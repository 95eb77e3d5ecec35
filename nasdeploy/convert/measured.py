"""Modules as models that are measured on a device: in the form that its runtime opens, and in its precision.

Some converters take seconds to start and hardly longer for a hundred modules than for one. They are given as many at a
time, when the first of them is asked for; what they make lies in files until it is measured.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from torch import nn

from nasdeploy.convert.fast_export import quick_onnx
from nasdeploy.convert.litert import TfliteConverter
from nasdeploy.convert.mnn import MnnConverter
from nasdeploy.convert.ncnn import NcnnConverter
from nasdeploy.convert.onnx import fixed_onnx
from nasdeploy.convert.precision import to_fp16, to_int8_of_random_ranges
from nasdeploy.core.errors import ConversionRefused, UserError
from nasdeploy.core.plan import TensorType
from nasdeploy.nn.network import Network, NetworkPart, StaticBlock, one_thread
from nasdeploy.runtimes import described_runtime
from nasdeploy.runtimes.runtime import Form, Model, Target, TorchModel


@dataclass(frozen=True)
class MeasuredModule:
    """A block, a network or any other module, with what it takes."""

    module: nn.Module
    inputs: Sequence[TensorType]
    """The types of its inputs, in the order of its arguments, each without the batch."""

    @property
    def is_whole(self) -> bool:
        """Whether it is a network rather than a block of one, which runs inside of a network."""
        return isinstance(self.module, Network | NetworkPart)

    def onnx(self, batch: int) -> bytes:
        """Return it as ONNX in fp32 for a fixed batch, in evaluation mode."""
        own = self.is_whole or isinstance(self.module, StaticBlock)
        return (quick_onnx if own else fixed_onnx)(self.module, self.inputs, batch)


class Converter(Protocol):
    """How modules become models of one form."""

    @property
    def together(self) -> int:
        """The number of modules that are converted at a time."""

    def convert(self, modules: Iterable[MeasuredModule], device: Target) -> list[Model | ConversionRefused]:
        """Return a model for the device's batch and precision, or why there is none, for each of up to `together`
        modules, which may be made as they are asked for and are left in evaluation mode."""


class OnnxConverter:
    """ONNX: in fp16 whole networks take and give fp32, as when they are delivered; single blocks do not, since inside a
    network nothing is converted. In int8 ranges are random, which is as fast as calibrated ones and as good as none."""

    together = 1

    def convert(self, modules: Iterable[MeasuredModule], device: Target) -> list[Model | ConversionRefused]:
        """Return ONNX files."""
        return [self._converted(each, device) for each in modules]

    def _converted(self, measured: MeasuredModule, device: Target) -> bytes:
        model = measured.onnx(device.batch)
        if device.precision == "fp16":
            return to_fp16(model, keep_io_types=measured.is_whole)
        if device.precision == "int8":
            return to_int8_of_random_ranges(model, device.runtime)
        return model


class TorchConverter:
    """PyTorch's modules as they are."""

    together = 1

    def convert(self, modules: Iterable[MeasuredModule], device: Target) -> list[Model | ConversionRefused]:
        """Return the modules themselves."""
        return [self._converted(each) for each in modules]

    def _converted(self, measured: MeasuredModule) -> TorchModel:
        inputs = {f"input.{number}": tensor for number, tensor in enumerate(measured.inputs)}
        return TorchModel(measured.module.eval(), inputs)


CONVERTERS: Mapping[Form, Converter] = {
    "onnx": OnnxConverter(),
    "ncnn": NcnnConverter(),
    "mnn": MnnConverter(),
    "tflite": TfliteConverter(),
    "module": TorchConverter(),
}
"""The converters by the form of what they make. A new one is a file of this package and a line here."""


def model_for(module: nn.Module, inputs: Sequence[TensorType], device: Target) -> Model:
    """Return `module` for inputs of these types and the device's batch, in evaluation mode.

    Raises `UserError` if the device's runtime is unknown, lacks the precision, or runs exported files only, and
    `ConversionRefused` if the module cannot be converted.
    """
    return _given(_converter(device).convert([MeasuredModule(module, inputs)], device)[0])


def models_for(modules: Mapping[str, Callable[[], MeasuredModule]], device: Target) -> dict[str, Callable[[], Model]]:
    """Return makers of the models of these modules by key, which convert several in their order at a time where that
    pays. They raise what `model_for` raises; calling this only raises `UserError` for the device."""
    converter = _converter(device)
    if converter.together == 1:
        return {key: partial(_alone, make, converter, device) for key, make in modules.items()}
    made: dict[str, Callable[[], Model]] = {}
    keys = list(modules)
    for start in range(0, len(keys), converter.together):
        some = {key: modules[key] for key in keys[start : start + converter.together]}
        together = _Together(some, converter, device)
        made.update({key: partial(together.model, key) for key in some})
    return made


def _converter(device: Target) -> Converter:
    form = described_runtime(device).form
    if form not in CONVERTERS:
        raise UserError(
            f"device {device.name}: {device.runtime} runs files that were exported for it, which takes too long for "
            "each of many networks; use another device, e.g. cpu"
        )
    return CONVERTERS[form]


def _given(converted: Model | ConversionRefused) -> Model:
    if isinstance(converted, ConversionRefused):
        raise converted
    return converted


def _alone(make: Callable[[], MeasuredModule], converter: Converter, device: Target) -> Model:
    return _given(converter.convert([make()], device)[0])


class _Together:
    """Modules that are converted in one go, once; their models lie in a folder as long as this is in use."""

    def __init__(self, modules: Mapping[str, Callable[[], MeasuredModule]], converter: Converter, device: Target):
        self._modules, self._converter, self._device = modules, converter, device
        self._found: dict[str, Path | ConversionRefused] = {}
        self._folder = TemporaryDirectory(prefix="nasdeploy-models-")

    def model(self, key: str) -> Model:
        """Return one of the models; raises `ConversionRefused` if there is none."""
        if not self._found:
            self._convert()
        found = self._found[key]
        if isinstance(found, ConversionRefused):
            raise found
        return found.read_bytes()

    def _convert(self) -> None:
        with one_thread():
            converted = self._converter.convert((make() for make in self._modules.values()), self._device)
        for number, (key, model) in enumerate(zip(self._modules, converted, strict=True)):
            if isinstance(model, ConversionRefused):
                self._found[key] = model
                continue
            assert isinstance(model, bytes), "only files are converted together"
            path = Path(self._folder.name, str(number))
            path.write_bytes(model)
            self._found[key] = path
