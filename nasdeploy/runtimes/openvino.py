"""OpenVINO on the CPU: one stream, latency before throughput.

Options of a device are OpenVINO's properties, and may replace those that are set here.
"""

import sys
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.core.plan import Shape
from nasdeploy.runtimes.runtime import (
    Array,
    Form,
    Model,
    Precision,
    Session,
    Target,
    content_of,
    integer_values,
    random_input,
    require_samples,
    timed_inputs_generator,
)

# What is computed in; the weights' type is the file's. int8 stands in the file too, as quantised operators.
_HINTS: Mapping[Precision, str] = {"fp32": "f32", "fp16": "f16", "int8": "f32"}
_TELEMETRY = "openvino_telemetry"


@cache
def the_module() -> Any:
    """Return OpenVINO's module, imported so that it does not report that to Google Analytics.

    It has a stub for where its telemetry is not installed, and cannot import a module that is known as None.
    """
    hidden = sys.modules.setdefault(_TELEMETRY, None) is None  # type: ignore[arg-type]
    try:
        import openvino
    finally:
        if hidden:
            del sys.modules[_TELEMETRY]
    return openvino


@cache
def the_core() -> Any:
    """Return the one `openvino.Core` of this process, which is kept until it ends.

    Each sets up a stack for signal handlers and gives back the one before when it is closed. Of two that are closed in
    the order in which they were opened, the memory of the first stays the stack, and the next signal ends the process.
    """
    return the_module().Core()


class OpenVino:
    """OpenVINO's CPU plugin. On a processor without fp16 a model in fp16 is computed, and measured, in fp32."""

    form: Form = "onnx"
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    largest_batch: int | None = None
    needs_gpu: bool = False
    oldest: str | None = None

    def missing(self) -> str | None:
        """Return the command that installs it, or None."""
        return None if find_spec("openvino") else "pip install openvino"

    def obstacle(self) -> str | None:
        """Return None: every machine has a CPU."""
        return None

    def version(self) -> str:
        """Return the version of the package."""
        return str(the_module().__version__)

    def computes(self, precision: Precision) -> Precision:
        """Return fp32 for fp16 on most processors: few compute in it."""
        able = the_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return precision if precision.upper() in able else "fp32"

    def open(self, model: Model, device: Target) -> Session:
        """Compile a model; raises `UserError` for one that cannot be loaded, or an option that is refused."""
        name, content = _file_or_bytes(model)
        core = the_core()
        try:
            graph = core.read_model(content)
        except RuntimeError as error:
            raise UserError(f"{name}: OpenVINO cannot load it ({_reason(error)}); export it again") from None
        try:
            values = integer_values(content) if isinstance(content, bytes) else {}
            return _OpenVinoSession(core.compile_model(graph, "CPU", _properties(device)), values, device.batch)
        except RuntimeError as error:
            _blame_option(core, graph, device)
            raise UserError(f"{name}: OpenVINO cannot compile it ({_reason(error)}); use another runtime") from None


def _file_or_bytes(model: Model) -> tuple[str, Path | bytes]:
    """Return a name, for messages, and what OpenVINO reads: of its own representation's two files this is one."""
    if isinstance(model, Path) and model.suffix == ".xml":
        return str(model), model
    return content_of(model)


def _properties(device: Target) -> dict[str, str]:
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(device.threads),
        "INFERENCE_PRECISION_HINT": _HINTS[device.precision],
        **device.options,
    }


def _blame_option(core: Any, graph: Any, device: Target) -> None:
    """Raise `UserError` for the option without the others of which the model cannot be compiled, if there is one."""
    for key, value in device.options.items():
        try:
            core.compile_model(graph, "CPU", {key: value})
        except RuntimeError as error:
            raise UserError(f"device {device.name}: option '{key}' is refused ({_reason(error)}); correct it") from None


def _reason(error: RuntimeError) -> str:
    """Return the reason without the places in OpenVINO's own sources."""
    lines = [line for line in str(error).splitlines() if not line.startswith(("Exception from", "Check "))]
    return one_line(" ".join(lines) or error)


class _OpenVinoSession:
    def __init__(self, compiled: Any, values: Mapping[str, int], batch: int) -> None:
        self._values = values
        self._request = compiled.create_infer_request()
        self._inputs = {port.any_name: _shape(port.partial_shape, batch) for port in compiled.inputs}
        self._types = [port.element_type.to_dtype() for port in compiled.inputs]
        self._outputs = len(compiled.outputs)
        self._bound = False

    @property
    def inputs(self) -> Mapping[str, Shape]:
        return self._inputs

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        require_samples(feeds)
        self._bound = False
        self._request.infer(dict(feeds), share_inputs=False, share_outputs=True)
        return [self._request.get_output_tensor(number).data.copy() for number in range(self._outputs)]

    def call(self) -> None:
        if not self._bound:
            self._bind()
        self._request.infer(share_inputs=True, share_outputs=True)

    def _bind(self) -> None:
        """Give the request inputs that it keeps, so that a call hands over nothing."""
        rng = timed_inputs_generator()
        for number, ((name, shape), dtype) in enumerate(zip(self._inputs.items(), self._types, strict=True)):
            values = random_input(shape, dtype, self._values.get(name), rng)
            self._request.set_input_tensor(number, the_module().Tensor(values))
        self._bound = True

    def close(self) -> None:
        self._request = None


def _shape(dimensions: Any, batch: int) -> Shape:
    return tuple(batch if dimension.is_dynamic else dimension.get_length() for dimension in dimensions)
