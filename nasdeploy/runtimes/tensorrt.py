"""TensorRT, and TensorRT for RTX, by one path: an engine for each model, precision as the ONNX file says.

Networks are strongly typed: the precision flags of old are gone from TensorRT 11. What only one of the two has is asked
for with `hasattr`. The one option of a device is `tf32`. TensorRT for RTX 1.6 was seen to round to TF32 without being
allowed to, on an H200, which is none of the GPUs that it names; NVIDIA_TF32_OVERRIDE=0 in the environment of a process
keeps it from that.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nasdeploy.core.errors import UserError, one_line, suggestion
from nasdeploy.core.plan import Shape
from nasdeploy.runtimes.cuda import TF32, gpu, missing_gpu
from nasdeploy.runtimes.runtime import (
    LARGEST_BATCH,
    Array,
    Form,
    Model,
    Precision,
    Session,
    Target,
    content_of,
    integer_values,
    only,
    random_input,
    require_samples,
    timed_inputs_generator,
    wants,
)


class TensorRt:
    """One of the two, by the name of its Python module."""

    form: Form = "onnx"
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    largest_batch: int | None = None
    needs_gpu: bool = True
    oldest: str | None = None

    def __init__(self, module: str, package: str) -> None:
        self._module, self._package = module, package
        self._timings = b""
        """How fast kernels were, which spares the next builds in this process from trying them again."""
        self._loader: Loader | None = None

    def missing(self) -> str | None:
        """Return the command that installs it and the bindings to CUDA, or None."""
        bindings = find_spec("cuda") is not None and find_spec("cuda.bindings") is not None
        return None if bindings and find_spec(self._module) else f"pip install {self._package} cuda-bindings"

    def obstacle(self) -> str | None:
        """Whether there is a GPU."""
        return missing_gpu()

    def version(self) -> str:
        """Return the version of the package, and the GPU."""
        return f"{import_module(self._module).__version__} on {gpu()}"

    def computes(self, precision: Precision) -> Precision:
        """Return the model as it is stored; in int8 TensorRT for RTX has weights only, which it expands."""
        return "fp32" if precision == "int8" and self._module == "tensorrt_rtx" else precision

    def open(self, model: Model, device: Target) -> Session:
        """Open an engine on the first GPU; raises `UserError` for a model that it refuses."""
        name, content = content_of(model)
        engine = self.build(model, device)
        try:
            return self._session(engine, integer_values(content), device)
        except RuntimeError as error:
            raise UserError(f"{name}: {self._module} cannot run its engine ({one_line(error)})") from None

    def load(self, path: Path, device: Target) -> Session:
        """Open an engine that was built before, on the first GPU; raises `UserError` for one that this SDK refuses."""
        try:
            return self._session(path.read_bytes(), {}, device)
        except (OSError, RuntimeError) as error:
            raise UserError(f"{path}: {self._module} cannot load it ({one_line(error)}); build it again") from None

    def _session(self, engine: bytes, values: Mapping[str, int], device: Target) -> Session:
        trt = import_module(self._module)
        self._loader = self._loader or Loader(trt)
        return _TensorRtSession(trt, self._loader, engine, values, device.batch)

    def capabilities(self) -> tuple[str, ...]:
        """Return the compute capabilities that engines can be built for without such a GPU, e.g. `SM86`."""
        known = getattr(import_module(self._module), "ComputeCapability", None)
        return tuple(name for name in known.__members__ if name.startswith("SM")) if known else ()

    def build(self, model: Model, device: Target, capabilities: Sequence[str] = ()) -> bytes:
        """Build an engine for the GPU that is there, or for compute capabilities such as `SM86`, which needs no GPU.

        Raises `UserError` for a model that the parser or the builder refuses, with the operator if it names one, and
        for capabilities that are unknown; TensorRT itself, other than that for RTX, can build for none.
        """
        only((TF32,), device)
        trt = import_module(self._module)
        name, content = content_of(model)
        log = _log(trt)
        builder = trt.Builder(log)
        network = _parse(trt, builder, log, name, content)
        config = builder.create_builder_config()
        _choose_capabilities(trt, config, capabilities, device)
        if hasattr(trt.BuilderFlag, "TF32") and not wants(TF32, device):
            config.clear_flag(trt.BuilderFlag.TF32)
        _allow_batches(builder, network, config, device.batch)
        engine = self._built(builder, network, config)
        if engine is None:
            raise UserError(f"{name}: {trt.__name__} cannot build an engine of it ({log.last()}); use another runtime")
        return engine

    def _built(self, builder: Any, network: Any, config: Any) -> bytes | None:
        # TensorRT for RTX chooses kernels when an engine is loaded, and has nothing to remember from building.
        remembers = not hasattr(config, "num_compute_capabilities")
        if remembers:
            config.set_timing_cache(config.create_timing_cache(self._timings), ignore_mismatch=False)
        engine = builder.build_serialized_network(network, config)
        if remembers:
            self._timings = bytes(config.get_timing_cache().serialize())
        return None if engine is None else bytes(engine)


def _log(trt: Any) -> Any:
    """Return a log that keeps what goes wrong instead of printing it."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.errors.append(message)

        def last(self) -> str:
            return one_line(self.errors[-1]) if self.errors else "it does not say why"

    return Log()


def _parse(trt: Any, builder: Any, log: Any, name: str, content: bytes) -> Any:
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(content):
        error = parser.get_error(0)
        if error.node_operator():
            where = f"operator {error.node_operator()} of node '{error.node_name()}'"
            raise UserError(
                f"{name}: {trt.__name__} cannot run {where} ({one_line(error.desc())}); use another runtime"
            )
        raise UserError(f"{name}: {trt.__name__} cannot load it ({one_line(error.desc())}); export it again")
    # An empty file is parsed without an error.
    if network.num_outputs == 0:
        raise UserError(f"{name}: {trt.__name__} cannot load it (it has no outputs); export it again")
    return network


def _choose_capabilities(trt: Any, config: Any, capabilities: Sequence[str], device: Target) -> None:
    if not capabilities:
        return
    if not hasattr(config, "num_compute_capabilities"):
        raise UserError(
            f"device {device.name}: {device.runtime} builds for the GPU that is there only; use tensorrt-rtx"
        )
    known = trt.ComputeCapability.__members__
    config.num_compute_capabilities = len(capabilities)
    for number, capability in enumerate(capabilities):
        if capability not in known:
            raise UserError(f"unknown compute capability '{capability}'{suggestion(capability, known)}")
        config.set_compute_capability(known[capability], number)


def _allow_batches(builder: Any, network: Any, config: Any, batch: int) -> None:
    """Give a dynamic batch its limits and the one to be fast at."""
    inputs = [network.get_input(number) for number in range(network.num_inputs)]
    if all(-1 not in tuple(each.shape) for each in inputs):
        return
    profile = builder.create_optimization_profile()
    for each in inputs:
        limits = (_with_batch(each.shape, size) for size in (1, batch, max(batch, LARGEST_BATCH)))
        profile.set_shape(each.name, *limits)
    config.add_optimization_profile(profile)


def _with_batch(shape: Any, batch: int) -> Shape:
    return tuple(batch if size == -1 else size for size in shape)


class Loader:
    """Makes engines and contexts to execute them in; one serves all sessions of a process.

    TensorRT for RTX compiles its kernels when a context is created. They are kept for the next ones: of each
    compilation 35 MB of memory did not come back to the process, which measures a thousand models.
    """

    def __init__(self, trt: Any) -> None:
        self.log = _log(trt)
        self._runtime = trt.Runtime(self.log)
        self._kernels: Any = None

    def engine(self, content: bytes) -> Any:
        """Open an engine; raises `RuntimeError` for what this SDK refuses."""
        # What went wrong with an earlier engine is not the reason of a later failure.
        self.log.errors.clear()
        return self._made(self._runtime.deserialize_cuda_engine(content))

    def context(self, engine: Any) -> Any:
        """Make a context for an engine; raises `RuntimeError`, e.g. where memory is short."""
        config: Any = engine.create_runtime_config() if hasattr(engine, "create_runtime_config") else None
        if not hasattr(config, "create_runtime_cache"):
            return self._made(engine.create_execution_context())
        self._kernels = self._kernels or config.create_runtime_cache()
        config.set_runtime_cache(self._kernels)
        return self._made(engine.create_execution_context(config))

    def _made(self, thing: Any) -> Any:
        if thing is None:
            raise RuntimeError(self.log.last())
        return thing


class _TensorRtSession:
    def __init__(self, trt: Any, loader: Loader, engine: bytes, values: Mapping[str, int], batch: int) -> None:
        self._values = values
        self._trt, self._log = trt, loader.log
        self._engine = loader.engine(engine)
        self._context = loader.context(self._engine)
        names = [self._engine.get_tensor_name(number) for number in range(self._engine.num_io_tensors)]
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self._inputs = {name: _with_batch(self._engine.get_tensor_shape(name), batch) for name in inputs}
        self._outputs = [name for name in names if name not in inputs]
        self._stream = _cuda("cudaStreamCreate")
        self._memory: dict[str, tuple[int, Array]] = {}
        self._bound = False

    @property
    def inputs(self) -> Mapping[str, Shape]:
        return self._inputs

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        require_samples(feeds)
        self._bind(feeds)
        self._bound = False
        self._execute()
        return [self._fetch(name) for name in self._outputs]

    def call(self) -> None:
        self._bind_fixed()
        self._execute()

    def _bind_fixed(self) -> None:
        """Bind inputs that lie on the GPU, so that a call hands over nothing."""
        if self._bound:
            return
        rng = timed_inputs_generator()
        self._bind(
            {
                name: random_input(shape, self._type(name), self._values.get(name), rng)
                for name, shape in self._inputs.items()
            }
        )
        self._bound = True

    def _bind(self, feeds: Mapping[str, Array]) -> None:
        import numpy as np
        from cuda.bindings.runtime import cudaMemcpyKind

        self._free()
        for name in self._inputs:
            values = np.ascontiguousarray(feeds[name], dtype=self._type(name))
            self._context.set_input_shape(name, values.shape)
            pointer = self._allocate(name, values)
            _cuda("cudaMemcpy", pointer, values.ctypes.data, values.nbytes, cudaMemcpyKind.cudaMemcpyHostToDevice)
        for name in self._outputs:
            self._allocate(name, np.empty(tuple(self._context.get_tensor_shape(name)), dtype=self._type(name)))

    def _type(self, name: str) -> Any:
        return self._trt.nptype(self._engine.get_tensor_dtype(name))

    def _allocate(self, name: str, values: Array) -> int:
        pointer = int(_cuda("cudaMalloc", values.nbytes))
        self._memory[name] = (pointer, values)
        self._context.set_tensor_address(name, pointer)
        return pointer

    def _fetch(self, name: str) -> Array:
        from cuda.bindings.runtime import cudaMemcpyKind

        pointer, values = self._memory[name]
        _cuda("cudaMemcpy", values.ctypes.data, pointer, values.nbytes, cudaMemcpyKind.cudaMemcpyDeviceToHost)
        return values

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(int(self._stream)):
            raise RuntimeError(self._log.last())

    def _execute(self) -> None:
        self._enqueue()
        _cuda("cudaStreamSynchronize", self._stream)

    def _free(self) -> None:
        for pointer, _ in self._memory.values():
            _cuda("cudaFree", pointer)
        self._memory.clear()

    def close(self) -> None:
        self._free()
        self._context = self._engine = None
        _cuda("cudaStreamDestroy", self._stream)


def _cuda(function: str, *arguments: Any) -> Any:
    """Call a function of CUDA's runtime and return what it gives; raises `RuntimeError` for an error."""
    from cuda.bindings import runtime

    error, *values = getattr(runtime, function)(*arguments)
    if error != runtime.cudaError_t.cudaSuccess:
        raise RuntimeError(f"{function}: {error.name}")
    return values[0] if values else None
