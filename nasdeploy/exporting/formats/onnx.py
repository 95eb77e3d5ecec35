"""ONNX: one file, weights included, that any ONNX runtime loads."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nasdeploy.core.errors import one_line
from nasdeploy.exporting.formats.format import Interchange, ServerBackend, Source, mismatch
from nasdeploy.exporting.manifest import TensorFacts
from nasdeploy.runtimes import RUNTIMES
from nasdeploy.runtimes.device import Device
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


def _text(name: str, kind: str, sizes: Iterator[str | int] | Sequence[str | int]) -> str:
    return f"{name} {kind} [{', '.join(map(str, sizes))}]"
