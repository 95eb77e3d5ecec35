"""ONNX Runtime, on the CPU or on an NVIDIA GPU.

Options of a device are ONNX Runtime's session configuration entries. On a GPU, `tf32: "true"` lets fp32 be computed
with TF32.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from platform import machine
from typing import Any

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.core.plan import Shape
from nasdeploy.runtimes.cuda import TF32, gpu, missing_gpu
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
    wants,
)

OLDEST_TRIED = "1.15.1"
"""The oldest ONNX Runtime that exported files are tried with, by a test: older ones have no package for Python 3.11."""

_OLDEST = "1.8"
"""The first for opset 14 and IR version 7 (https://onnxruntime.ai/docs/reference/compatibility.html)."""
_ERRORS_ONLY = 3
_X86 = ("x86_64", "AMD64", "i686")
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_CUDA_LIBRARY = "capi/libonnxruntime_providers_cuda.so"

_NUMPY_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(bool)": "bool",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
}


class OnnxRuntime:
    """ONNX Runtime's CPU provider with all graph optimisations, operators one after the other."""

    form: Form = "onnx"
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    largest_batch: int | None = None
    needs_gpu: bool = False
    oldest: str | None = _OLDEST

    def missing(self) -> str | None:
        """Return the command that installs it, or None."""
        return None if find_spec("onnxruntime") else "pip install onnxruntime"

    def obstacle(self) -> str | None:
        """Return None: every machine has a CPU."""
        return None

    def version(self) -> str:
        """Return the version of the package."""
        import onnxruntime

        return str(onnxruntime.__version__)

    def computes(self, precision: Precision) -> Precision:
        """Return fp32 for fp16 on processors of the x86 family, which have no kernels for it."""
        return "fp32" if precision == "fp16" and machine() in _X86 else precision

    def open(self, model: Model, device: Target) -> Session:
        """Open a session with the device's threads and options; raises `UserError` for what cannot be loaded."""
        return _OnnxSession(*_load(model, device, device.options, [_CPU]), device.batch, "cpu")


class OnnxRuntimeCuda:
    """ONNX Runtime's CUDA provider; what it has no kernel for runs on the CPU."""

    form: Form = "onnx"
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    largest_batch: int | None = None
    needs_gpu: bool = True
    oldest: str | None = _OLDEST

    def missing(self) -> str | None:
        """The command that installs it, or None. The package for CPUs has the same module, but not the library."""
        found = find_spec("onnxruntime")
        if found is not None and found.origin and (Path(found.origin).parent / _CUDA_LIBRARY).exists():
            return None
        return "pip uninstall --yes onnxruntime; pip install 'onnxruntime-gpu[cuda,cudnn]'"

    def obstacle(self) -> str | None:
        """Whether there is a GPU."""
        return missing_gpu()

    def version(self) -> str:
        """Return the versions of the package and of the CUDA that it was built for, and the GPU."""
        import onnxruntime

        return f"{onnxruntime.__version__} CUDA {onnxruntime.cuda_version} on {gpu()}"

    def computes(self, precision: Precision) -> Precision:
        """Return the model as it is stored."""
        return precision

    def open(self, model: Model, device: Target) -> Session:
        """Open a session on the first GPU; raises `UserError` for a model, or a CUDA, that cannot be loaded."""
        import onnxruntime

        # CUDA and cuDNN as pip installs them lie where the loader does not look.
        onnxruntime.preload_dlls()
        entries = {key: value for key, value in device.options.items() if key != TF32}
        provider = (_CUDA, {"use_tf32": int(wants(TF32, device))})
        session, values = _load(model, device, entries, [provider, _CPU])
        if _CUDA not in session.get_providers():
            raise UserError(
                f"device {device.name}: ONNX Runtime cannot load CUDA {onnxruntime.cuda_version} and cuDNN; "
                "run: pip install 'onnxruntime-gpu[cuda,cudnn]'"
            )
        return _OnnxSession(session, values, device.batch, "cuda")


def _load(
    model: Model, device: Target, entries: Mapping[str, str], providers: Sequence[Any]
) -> tuple[Any, Mapping[str, int]]:
    """ONNX Runtime's session, and how many values the integer inputs have."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Below ALL the blocked memory layout is off, which makes convolutions half as fast.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = device.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    _configure(options, device, entries)
    name, content = content_of(model)
    try:
        return onnxruntime.InferenceSession(content, options, providers=list(providers)), integer_values(content)
    except onnxruntime_errors() as error:
        raise UserError(f"{name}: ONNX Runtime cannot load it ({one_line(error)}); export it again") from None


def _numpy_type(value: Any) -> str:
    if value.type not in _NUMPY_TYPES:
        raise UserError(f"the model: its input {value.name} is a {value.type}; use a model that takes numbers")
    return _NUMPY_TYPES[value.type]


def _configure(options: Any, device: Target, entries: Mapping[str, str]) -> None:
    for key, value in entries.items():
        try:
            options.add_session_config_entry(key, value)
        except RuntimeError as error:
            raise UserError(
                f"device {device.name}: option '{key}' is refused ({one_line(error)}); correct it"
            ) from None


def onnxruntime_errors() -> tuple[type[Exception], ...]:
    """Return what ONNX Runtime raises for a model or an input that it refuses."""
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


class _OnnxSession:
    def __init__(self, session: Any, values: Mapping[str, int], batch: int, memory: str) -> None:
        self._session, self._values, self._memory = session, values, memory
        self._inputs = {
            i.name: tuple(d if isinstance(d, int) else batch for d in i.shape) for i in session.get_inputs()
        }
        self._types = {i.name: _numpy_type(i) for i in session.get_inputs()}
        self._binding: Any = None

    @property
    def inputs(self) -> Mapping[str, Shape]:
        return self._inputs

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        require_samples(feeds)
        return list(self._session.run(None, dict(feeds)))

    def call(self) -> None:
        if self._binding is None:
            self._binding = self._bind()
        self._session.run_with_iobinding(self._binding)

    def _bind(self) -> Any:
        """Prepare inputs once where the provider computes, so that a call hands over nothing."""
        from onnxruntime import OrtValue

        rng = timed_inputs_generator()
        binding = self._session.io_binding()
        for name, shape in self._inputs.items():
            values = random_input(shape, self._types[name], self._values.get(name), rng)
            binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(values, self._memory, 0))
        for output in self._session.get_outputs():
            binding.bind_output(output.name, self._memory)
        return binding

    def close(self) -> None:
        self._session = self._binding = None
