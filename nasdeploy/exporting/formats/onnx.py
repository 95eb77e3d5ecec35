"""ONNX, one file that any ONNX runtime loads, weights included; and OpenVINO's representation, made from it.

OpenVINO's `model.xml` describes the graph, and `model.bin` beside it holds the weights.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.exporting.formats.format import Interchange, ServerBackend, Source, lacking, mismatch
from nasdeploy.exporting.manifest import TensorFacts
from nasdeploy.runtimes import RUNTIMES
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.openvino import the_core, the_module
from nasdeploy.runtimes.runtime import Precision

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto


_RESCALING = {"Resize", "Upsample"}


class OnnxFormat(Interchange):
    """Float32 in and out, NCHW at the architecture's resolution, any batch; the precision is inside."""

    suffixes = (".onnx",)
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    mixes = True
    holds_parts = True
    embeds = True
    package = "onnxruntime"
    backend = ServerBackend('backend: "onnxruntime"', {".onnx": "model.onnx"})

    def runtime(self, device: Device) -> str:
        """Return the device's, if that opens ONNX files."""
        opens = device.runtime not in RUNTIMES or RUNTIMES[device.runtime].form == "onnx"
        return device.runtime if opens else "onnxruntime"

    def recipe(self, device: Device) -> str:
        """Return the runtime that opens it."""
        return self.runtime(device)

    def write(self, source: Source, path: Path) -> None:
        """Write the ONNX model as it is."""
        path.write_bytes(source.onnx(source.precision))

    def inspect(self, path: Path, inputs: Sequence[TensorFacts], outputs: Sequence[TensorFacts]) -> list[str]:
        """Return what onnx.checker finds; and operators, inputs and outputs that are not as they should be."""
        import onnx
        from onnx import TensorProto

        try:
            model = onnx.load(path, load_external_data=False)
            if any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
                return ["weights lie in another file"]
            onnx.checker.check_model(path, full_check=True)
        # The checker, shape inference and protobuf each have errors of their own.
        except Exception as error:
            return [f"onnx.checker: {one_line(error)}"]
        return [
            *_operators(model),
            *_tensors("input", model.graph.input, inputs),
            *_tensors("output", model.graph.output, outputs),
        ]


def _operators(model: "ModelProto") -> Iterator[str]:
    from nasdeploy.convert.versions import NEWEST

    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets.keys() != {""} or opsets[""] > NEWEST:
        yield f"operators: opsets {opsets}, expected only ONNX's own up to version {NEWEST}"
    rescaling = sorted({node.op_type for node in model.graph.node} & _RESCALING)
    if rescaling:
        yield f"operators: {', '.join(rescaling)} rescales the image, which preprocessing has done already"


def _tensors(kind: str, found: "Sequence[ValueInfoProto]", expected: Sequence[TensorFacts]) -> list[str]:
    return mismatch(kind, [_described(value) for value in found], [_wanted(tensor) for tensor in expected])


def _described(value: "ValueInfoProto") -> str:
    from onnx import TensorProto

    tensor = value.type.tensor_type
    sizes = (dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
    return _text(value.name, TensorProto.DataType.Name(tensor.elem_type), sizes)


def _wanted(tensor: TensorFacts) -> str:
    return _text(tensor.name, {"float32": "FLOAT", "int64": "INT64"}[tensor.dtype], tensor.shape)


def _text(name: str, kind: str, sizes: Iterable[object]) -> str:
    return f"{name} {kind} [{', '.join(map(str, sizes))}]"


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
        # It halves the weights better than a converted graph does: no casts, and none of its operators is asked to
        # compute in fp16 where the processor cannot.
        onnx = source.onnx("fp32" if source.precision == "fp16" else source.precision)
        try:
            model = the_core().read_model(onnx)
            the_module().save_model(model, path, compress_to_fp16=source.precision == "fp16")
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
