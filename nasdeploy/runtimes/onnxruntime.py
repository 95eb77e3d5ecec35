"""ONNX Runtime on the CPU."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from nasdeploy.errors import UserError
from nasdeploy.plan import Shape
from nasdeploy.runtimes.runtime import Array, Form, Precision, Session, Target

_PROVIDERS = ["CPUExecutionProvider"]
_ERRORS_ONLY = 3

_NUMPY_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


class OnnxRuntime:
    """ONNX Runtime's CPU provider with all graph optimisations, operators one after the other."""

    form: Form = "onnx"
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")

    def missing(self) -> str | None:
        """The command that installs it, or None."""
        return None if find_spec("onnxruntime") else "pip install onnxruntime"

    def version(self) -> str:
        """Version of the package."""
        import onnxruntime

        return str(onnxruntime.__version__)

    def open(self, model: bytes | Path, device: Target) -> Session:
        """A session with the device's threads and options; raises `UserError` for a model that cannot be loaded."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        # Below ALL the blocked memory layout is off, which makes convolutions half as fast.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.intra_op_num_threads = device.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        _configure(options, device)
        source = model if isinstance(model, bytes) else str(model)
        try:
            return _OnnxSession(onnxruntime.InferenceSession(source, options, providers=_PROVIDERS), device.batch)
        except onnxruntime_errors() as error:
            name = "the model" if isinstance(model, bytes) else str(model)
            raise UserError(f"{name}: ONNX Runtime cannot load it ({_one_line(error)}); export it again") from None


def _configure(options: Any, device: Target) -> None:
    for key, value in device.options.items():
        try:
            options.add_session_config_entry(key, value)
        except RuntimeError as error:
            raise UserError(
                f"device {device.name}: option '{key}' is refused ({_one_line(error)}); correct it"
            ) from None


def onnxruntime_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises for a model or an input that it refuses."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


class _OnnxSession:
    def __init__(self, session: Any, batch: int) -> None:
        self._session = session
        self._inputs = {
            i.name: tuple(d if isinstance(d, int) else batch for d in i.shape) for i in session.get_inputs()
        }
        self._types = {i.name: _NUMPY_TYPES[i.type] for i in session.get_inputs()}
        self._binding: Any = None

    @property
    def inputs(self) -> Mapping[str, Shape]:
        return self._inputs

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        return list(self._session.run(None, dict(feeds)))

    def call(self) -> None:
        if self._binding is None:
            self._binding = self._bind()
        self._session.run_with_iobinding(self._binding)

    def _bind(self) -> Any:
        """Inputs prepared once, so that a call hands over nothing."""
        rng = np.random.default_rng(0)
        binding = self._session.io_binding()
        for name, shape in self._inputs.items():
            binding.bind_cpu_input(name, rng.standard_normal(shape).astype(self._types[name]))
        for output in self._session.get_outputs():
            binding.bind_output(output.name)
        return binding

    def close(self) -> None:
        self._session = self._binding = None
