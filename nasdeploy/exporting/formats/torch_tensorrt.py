"""Torch-TensorRT: an engine that it converts from PyTorch's exported program, and that program beside it.

The engine is TensorRT's, or TensorRT for RTX's if that is the edition that is installed, and runs there like any other.
The program holds no engine: with one it would be loaded as a pickle, and engines serve one GPU and one version only,
while Torch-TensorRT compiles the program again anywhere (`torch_tensorrt.dynamo.compile(torch.export.load(file))`).
"""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.core.plan import Shape
from nasdeploy.exporting.formats.format import Source, files_of
from nasdeploy.exporting.formats.sdk import lacking
from nasdeploy.exporting.formats.tensorrt import TensorRtFormat, emptiness
from nasdeploy.exporting.formats.torch import TorchFormat, save_program
from nasdeploy.exporting.manifest import TensorFacts
from nasdeploy.runtimes.cuda import TF32
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.options import only, wants
from nasdeploy.runtimes.runtime import Precision
from nasdeploy.runtimes.tensorrt import LARGEST_BATCH

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_RTX = "torch-tensorrt-rtx"
"""Package of the edition that builds for TensorRT for RTX."""


class TorchTensorRtFormat(TensorRtFormat):
    """For the GPU that is here, without ONNX on the way."""

    suffixes = (".torch-tensorrt.engine", ".torch-tensorrt.pt2")
    precisions: tuple[Precision, ...] = ("fp32",)

    @property
    def _name(self) -> str:  # type: ignore[override]
        """Of the runtime of the edition that is installed."""
        try:
            version(_RTX)
        except PackageNotFoundError:
            return "tensorrt"
        return "tensorrt-rtx"

    def missing(self) -> str | None:
        """The command that installs it, or None."""
        return lacking("torch_tensorrt", "torch-tensorrt", "2.9") or self._runtime.missing()

    def write(self, source: Source, path: Path) -> None:
        """Convert and build; raises `UserError` for a network that Torch-TensorRT refuses."""
        engine, program = files_of(self, path)
        ((_, tensor),) = source.network.plan.only.inputs
        engine.write_bytes(_convert(save_program(source.network, program), tensor.shape, source.device))

    def inspect(self, path: Path, inputs: Sequence[TensorFacts], outputs: Sequence[TensorFacts]) -> list[str]:
        """What is wrong with the program, and whether there is an engine, which is loaded since there is a GPU."""
        engine, program = files_of(self, path)
        return [*emptiness(engine), *TorchFormat().inspect(program, inputs, outputs)]


def _convert(program: "ExportedProgram", shape: Shape, device: Device) -> bytes:
    """The engine of a program with an input of that shape (without batch), for any batch up to 32 or the device's."""
    only((TF32,), device)
    import torch_tensorrt

    given = torch_tensorrt.Input(
        min_shape=(1, *shape),
        opt_shape=(device.batch, *shape),
        max_shape=(max(device.batch, LARGEST_BATCH), *shape),
        name="input",
    )
    try:
        engine: Any = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
            program,
            arg_inputs=[given],
            disable_tf32=not wants(TF32, device),
            # Otherwise the engine would be a part of the network, and the rest would be lost.
            require_full_compilation=True,
            arg_input_binding_names=("input",),
            output_binding_names="logits",
        )
    # It raises whatever its passes, its converters and the builder do.
    except Exception as error:
        raise UserError(
            f"format torch-tensorrt: Torch-TensorRT refuses the network ({one_line(error)}); use --format tensorrt"
        ) from None
    return bytes(engine)
