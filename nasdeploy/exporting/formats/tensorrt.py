"""Engines of TensorRT, of TensorRT for RTX, and of Torch-TensorRT: one path for all; see `nasdeploy.runtimes.tensorrt`.

TensorRT builds for the GPU that is there. TensorRT for RTX builds for given compute capabilities too, without a GPU.
The ONNX model that an engine was built from lies beside it, because engines are tied to a GPU and a version.

Torch-TensorRT converts an engine from PyTorch's exported program, which lies beside it in place of an ONNX model. The
engine is TensorRT's, or TensorRT for RTX's if that edition is installed, and runs there like any other. The program
holds no engine: with one it would be loaded as a pickle, and engines serve one GPU and one version only, while
Torch-TensorRT compiles the program again anywhere (`torch_tensorrt.dynamo.compile(torch.export.load(file))`).
"""

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasdeploy.core.errors import CheckFailed, UserError, listed, one_line, suggestion
from nasdeploy.core.plan import Shape
from nasdeploy.exporting.formats.format import ExampleProgram, ServerBackend, Source, files_of, lacking
from nasdeploy.exporting.formats.onnx import OnnxFormat
from nasdeploy.exporting.formats.torch import TorchFormat, save_program
from nasdeploy.exporting.manifest import TensorFacts
from nasdeploy.runtimes import RUNTIMES, runtime_of
from nasdeploy.runtimes.cuda import TF32, compute_capability, missing_gpu
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.engine import read_header
from nasdeploy.runtimes.runtime import LARGEST_BATCH, Precision, Session, only, wants
from nasdeploy.runtimes.tensorrt import TensorRt

if TYPE_CHECKING:
    from torch.export import ExportedProgram


class TensorRtFormat:
    """An engine for the GPU that is here."""

    suffixes: tuple[str, ...] = (".tensorrt.engine", ".tensorrt.onnx")
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    mixes = True
    ahead_of_time = False
    holds_parts = False
    fixes_batch = False
    embeds = False
    package: str | None = None
    example: ExampleProgram | None = None
    backend: ServerBackend | None = ServerBackend('backend: "tensorrt"', {".engine": "model.plan"}, on_gpu=True)
    tied = True
    rebuilds_with: str | None = "tensorrt"
    _sdk = ("tensorrt", "tensorrt", "10")
    """The module, the package, and the first version with strongly typed networks."""

    def _name(self) -> str:
        """The runtime that opens the engine."""
        return "tensorrt"

    @property
    def _runtime(self) -> TensorRt:
        runtime = RUNTIMES[self._name()]
        assert isinstance(runtime, TensorRt)
        return runtime

    def runtime(self, device: Device) -> str:
        """Return the one that it is the format of."""
        return self._name()

    def recipe(self, device: Device) -> str:
        """Return its own."""
        return self._name()

    def largest_batch(self, device: Device) -> int | None:
        """Return what the engine is built for."""
        return max(device.batch, LARGEST_BATCH)

    def missing(self) -> str | None:
        """Return the command that installs it, or None."""
        return self._runtime.missing() or lacking(*self._sdk)

    def obstacle(self) -> str | None:
        """Return why there is no GPU to build for; None if there is one."""
        return missing_gpu()

    def not_run(self, capabilities: Sequence[str]) -> str | None:
        """Return None: it is built for the GPU that is here."""
        return None

    def write(self, source: Source, path: Path) -> None:
        """Build; raises `UserError` for a model that the parser or the builder refuses, with the operator."""
        engine, onnx = files_of(self, path)
        content = source.onnx(source.precision)
        onnx.write_bytes(content)
        engine.write_bytes(self._runtime.build(content, source.device, source.capabilities))

    def open(self, path: Path, device: Device) -> Session:
        """Open the engine on the first GPU."""
        runtime_of(device)
        return self._runtime.load(path, device)

    def inspect(self, path: Path, inputs: Sequence[TensorFacts], outputs: Sequence[TensorFacts]) -> list[str]:
        """Return whether an engine is missing, which is loaded as there is a GPU; and what ails its ONNX model."""
        engine, onnx = files_of(self, path)
        return [*emptiness(engine), *OnnxFormat().inspect(onnx, inputs, outputs)]


class TensorRtRtxFormat(TensorRtFormat):
    """An engine for the GPU that is here, or for GPUs of other compute capabilities. In int8 only weights are."""

    suffixes = (".tensorrt-rtx.engine", ".tensorrt-rtx.onnx")
    ahead_of_time = True
    backend = None
    rebuilds_with = "tensorrt_rtx"
    _sdk = ("tensorrt_rtx", "tensorrt-rtx-cu13", "1.6")

    def _name(self) -> str:
        return "tensorrt-rtx"

    def obstacle(self) -> str | None:
        """Return None: it builds anywhere, if it is told for which compute capabilities."""
        return None

    def not_run(self, capabilities: Sequence[str]) -> str | None:
        """Return why there is no GPU that the engine is for; None if there is one."""
        if not capabilities:
            return missing_gpu()
        absent = missing_gpu()
        here = None if absent else compute_capability()
        if here in capabilities:
            return None
        place = "no NVIDIA GPU is here" if absent else f"the GPU here is of {here}"
        return f"not run here: it is for {', '.join(capabilities)}, and {place}"

    def write(self, source: Source, path: Path) -> None:
        """Build, and see that the engine is for what was asked for."""
        super().write(source, path)
        header = read_header(path.read_bytes())
        if set(header.capabilities) != set(source.capabilities) and source.capabilities:
            raise CheckFailed(
                f"format tensorrt-rtx: the engine is for {', '.join(header.capabilities)}, asked for was "
                f"{', '.join(source.capabilities)}; use another version"
            )

    def inspect(self, path: Path, inputs: Sequence[TensorFacts], outputs: Sequence[TensorFacts]) -> list[str]:
        """Return what ails the header and the ONNX model; an engine tells its inputs to a GPU only."""
        try:
            read_header(path.read_bytes())
        except ValueError as error:
            return [f"header: {error}"]
        return super().inspect(path, inputs, outputs)


def emptiness(engine: Path) -> list[str]:
    """Return a line if there is no engine in the file: all that can be said of one without its SDK and a GPU."""
    return [] if engine.stat().st_size else ["header: the file is empty"]


def parse_capabilities(given: Sequence[str]) -> tuple[str, ...]:
    """Return `["sm86,sm89", "8.9"]` as `("SM86", "SM89")`; raises `UserError` for what the SDK does not know."""
    runtime = RUNTIMES["tensorrt-rtx"]
    assert isinstance(runtime, TensorRt)
    words = listed(given)
    if not words:
        return ()
    missing = TensorRtRtxFormat().missing()
    if missing is not None:
        raise UserError(f"format tensorrt-rtx: its package is missing or too old; run: {missing}")
    known = runtime.capabilities()
    found = dict.fromkeys(f"SM{word.upper().removeprefix('SM').replace('.', '')}" for word in words)
    for name in found:
        if name not in known:
            raise UserError(
                f"`compute_capability={name.lower()}`: unknown to this version of TensorRT for RTX"
                f"{suggestion(name.lower(), [each.lower() for each in known])}"
            )
    return tuple(found)


_RTX = "torch-tensorrt-rtx"
"""The package of the edition that builds for TensorRT for RTX."""


class TorchTensorRtFormat(TensorRtFormat):
    """An engine for the GPU that is here, without ONNX on the way."""

    suffixes = (".torch-tensorrt.engine", ".torch-tensorrt.pt2")
    precisions: tuple[Precision, ...] = ("fp32",)
    backend = None
    rebuilds_with = None

    def _name(self) -> str:
        """The runtime of the edition that is installed."""
        try:
            version(_RTX)
        except PackageNotFoundError:
            return "tensorrt"
        return "tensorrt-rtx"

    def missing(self) -> str | None:
        """Return the command that installs it, or None."""
        return lacking("torch_tensorrt", "torch-tensorrt", "2.9") or self._runtime.missing()

    def write(self, source: Source, path: Path) -> None:
        """Convert and build; raises `UserError` for a network that Torch-TensorRT refuses."""
        engine, program = files_of(self, path)
        ((_, tensor),) = source.network.plan.only.inputs
        engine.write_bytes(_convert(save_program(source.network, program), tensor.shape, source.device))

    def inspect(self, path: Path, inputs: Sequence[TensorFacts], outputs: Sequence[TensorFacts]) -> list[str]:
        """Return what ails the program, and whether an engine is missing, which is loaded as there is a GPU."""
        engine, program = files_of(self, path)
        return [*emptiness(engine), *TorchFormat().inspect(program, inputs, outputs)]


def _convert(program: "ExportedProgram", shape: Shape, device: Device) -> bytes:
    """Return the engine of a program with an input of that shape, for any batch up to 32 or the device's."""
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
            f"format torch-tensorrt: Torch-TensorRT refuses the network ({one_line(error)}); use `format=tensorrt`"
        ) from None
    return bytes(engine)
