"""OpenVINO's intermediate representation: `model.xml` describes the graph, `model.bin` beside it holds the weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.exporting.formats.format import Interchange, ServerBackend, Source, lacking, mismatch
from nasdeploy.exporting.manifest import TensorFacts
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.openvino import the_core
from nasdeploy.runtimes.runtime import Precision

_TYPES = {"float32": "f32", "int64": "i64"}


class OpenVinoFormat(Interchange):
    """Written from the ONNX model. In fp16 the weights are; what is computed in is the processor's to say."""

    suffixes = (".xml", ".bin")
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    holds_parts = True
    package = "openvino"
    backend = ServerBackend('backend: "openvino"', {".xml": "model.xml", ".bin": "model.bin"})

    def runtime(self, device: Device) -> str:
        """Return OpenVINO."""
        return "openvino"

    def recipe(self, device: Device) -> str:
        """Return its own."""
        return "openvino"

    def missing(self) -> str | None:
        """Return the command that installs it, or None."""
        return lacking("openvino", "openvino", "2025.4")

    def write(self, source: Source, path: Path) -> None:
        """Write both files; raises `UserError` if OpenVINO refuses the model."""
        import openvino

        # It halves the weights better than a converted graph does: no casts, and none of its operators is asked to
        # compute in fp16 where the processor cannot.
        onnx = source.onnx("fp32" if source.precision == "fp16" else source.precision)
        try:
            model = the_core().read_model(onnx)
            openvino.save_model(model, path, compress_to_fp16=source.precision == "fp16")
        except RuntimeError as error:
            raise UserError(
                f"format openvino: OpenVINO refuses the network ({one_line(error)}); use another format"
            ) from None

    def inspect(self, path: Path, inputs: Sequence[TensorFacts], outputs: Sequence[TensorFacts]) -> list[str]:
        """Return what OpenVINO's reader finds; and inputs and outputs that are not as they should be."""
        try:
            model = the_core().read_model(path, path.with_suffix(".bin"))
        except RuntimeError as error:
            return [f"OpenVINO: {one_line(error)}"]
        return [*_ports("input", model.inputs, inputs), *_ports("output", model.outputs, outputs)]


def _ports(kind: str, found: Sequence[Any], expected: Sequence[TensorFacts]) -> list[str]:
    shown = [_text(port.any_name, port.element_type.get_type_name(), list(port.partial_shape)) for port in found]
    wanted = [
        _text(tensor.name, _TYPES[tensor.dtype], ["?" if size == "batch" else size for size in tensor.shape])
        for tensor in expected
    ]
    return mismatch(kind, shown, wanted)


def _text(name: str, kind: str, sizes: Sequence[Any]) -> str:
    return f"{name} {kind} [{', '.join(map(str, sizes))}]"
