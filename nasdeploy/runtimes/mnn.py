"""MNN on the CPU. Options of a device are `power` and `memory`, each `normal`, `low` or `high`.

Its package reports conversions to a server and installs others by pip, in `MNN.tools`, which is never imported; the
rest does no such thing. It prints to standard output when it is imported, and when it opens a model.
"""

import ctypes
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.core.plan import Shape
from nasdeploy.runtimes.mnn_file import MnnFile, read_mnn
from nasdeploy.runtimes.runtime import (
    Array,
    Form,
    Model,
    Precision,
    Session,
    Target,
    content_of,
    only,
    random_input,
    require_samples,
    timed_inputs_generator,
)

_CPUINFO = Path("/proc/cpuinfo")
_PRECISIONS: Mapping[Precision, str] = {"fp32": "high", "fp16": "low"}
_OPTIONS = ("power", "memory")
_LEVELS = ("normal", "low", "high")


class Mnn:
    """MNN's CPU backend. On a processor without fp16 a model in fp16 is computed, and measured, in fp32."""

    form: Form = "mnn"
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    largest_batch: int | None = None
    needs_gpu: bool = False
    oldest: str | None = None

    def missing(self) -> str | None:
        """Return the command that installs it, or None."""
        return None if find_spec("MNN") else "pip install mnn"

    def obstacle(self) -> str | None:
        """Return None: every machine has a CPU."""
        return None

    def version(self) -> str:
        """Return the version of the package."""
        return version("mnn")

    def computes(self, precision: Precision) -> Precision:
        """Return fp32 for fp16 but on processors of ARM that have its arithmetic, from v8.2 on."""
        able = platform.machine() in ("aarch64", "arm64") and "asimdhp" in _read(_CPUINFO)
        return precision if able else "fp32"

    def open(self, model: Model, device: Target) -> Session:
        """Open a model; raises `UserError` for one that is damaged, or an option that is unknown."""
        name, content = content_of(model)
        settings = _settings(device)
        try:
            facts = read_mnn(content)
            return _MnnSession(content, facts, settings, device.batch)
        # Its binding raises nothing more special.
        except Exception as error:
            raise UserError(f"{name}: MNN cannot load it ({one_line(error)}); export it again") from None


def _settings(device: Target) -> dict[str, Any]:
    """Return what a session is created with; raises `UserError` for options that there are not."""
    only(_OPTIONS, device)
    for name, value in device.options.items():
        if value not in _LEVELS:
            raise UserError(f"device {device.name}: option '{name}' is \"{value}\"; write one of {', '.join(_LEVELS)}")
    return {
        "backend": "CPU",
        "numThread": device.threads,
        "precision": _PRECISIONS[device.precision],
        **device.options,
    }


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@dataclass
class Printed:
    """What C libraries printed to standard output."""

    text: str = ""


@contextmanager
def printed_apart() -> Iterator[Printed]:
    """Keep what C libraries print to standard output meanwhile from the terminal; it is read when this ends."""
    if sys.stdout is not None:
        sys.stdout.flush()
    printed = Printed()
    with TemporaryFile() as said:
        kept = os.dup(1)
        try:
            os.dup2(said.fileno(), 1)
            yield printed
        finally:
            # What is printed lies in the C library's buffer, where standard output is no terminal.
            ctypes.CDLL(None).fflush(None)
            os.dup2(kept, 1)
            os.close(kept)
            said.seek(0)
            printed.text = said.read().decode(errors="replace")


def _mnn() -> Any:
    with printed_apart():
        import MNN

    return MNN


_TYPES: Mapping[str, str] = {"float32": "Halide_Type_Float", "int32": "Halide_Type_Int"}


class _MnnSession:
    """A model with its tensors, and tensors of the caller's: what goes in is copied, and what comes out, too."""

    def __init__(self, content: bytes, facts: MnnFile, settings: dict[str, Any], batch: int) -> None:
        self._mnn, self._facts = _mnn(), facts
        for tensor in facts.inputs:
            if tensor.dtype not in _TYPES or not tensor.shape or min(tensor.shape[1:], default=1) < 1:
                raise ValueError(f"its input {tensor.name} is {tensor.dtype} {list(tensor.shape)}")
        with TemporaryDirectory(prefix="nasdeploy-mnn-") as folder, printed_apart():
            # It opens files only, and keeps none that have the same name.
            file = Path(folder, "model.mnn")
            file.write_bytes(content)
            self._interpreter: Any = self._mnn.Interpreter(str(file))
            self._session: Any = self._interpreter.createSession(settings)
        self._inputs = {tensor.name: (batch, *tensor.shape[1:]) for tensor in facts.inputs}
        self._given = {name: self._interpreter.getSessionInput(self._session, name) for name in self._inputs}
        self._shapes: dict[str, Shape] = {}
        self._has_run = False
        self._fixed: dict[str, Any] = {}
        self._results: list[tuple[Any, Any]] = []

    @property
    def inputs(self) -> Mapping[str, Shape]:
        return self._inputs

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        import numpy as np

        require_samples(feeds)
        self._resize({name: tuple(feeds[name].shape) for name in self._inputs})
        self._call({name: self._tensor(name, feeds[name]) for name in self._inputs})
        return [np.array(kept.getNumpyData()) for _, kept in self._results]

    def call(self) -> None:
        if self._shapes != self._inputs or not self._fixed:
            self._bind()
        self._call(self._fixed)

    def _call(self, given: Mapping[str, Any]) -> None:
        for name, tensor in given.items():
            self._given[name].copyFrom(tensor)
        # What it cannot run it says the first time, if ever.
        with nullcontext() if self._has_run else printed_apart():
            status = self._interpreter.runSession(self._session)
        if status:
            raise RuntimeError(f"MNN cannot run it, error {status}")
        self._has_run = True
        for output, kept in self._results:
            output.copyToHostTensor(kept)

    def _bind(self) -> None:
        """Make fixed inputs of the device's batch."""
        self._resize(self._inputs)
        rng = timed_inputs_generator()
        for tensor in self._facts.inputs:
            # A file does not say how many values its integers have.
            values = random_input(self._inputs[tensor.name], tensor.dtype, None, rng)
            self._fixed[tensor.name] = self._tensor(tensor.name, values)

    def _resize(self, shapes: Mapping[str, Shape]) -> None:
        """Make the session one for inputs of these shapes."""
        if self._shapes == shapes:
            return
        with printed_apart():
            for name, shape in shapes.items():
                self._interpreter.resizeTensor(self._given[name], shape)
            self._interpreter.resizeSession(self._session)
        self._shapes, self._has_run = dict(shapes), False
        outputs = [self._interpreter.getSessionOutput(self._session, name) for name in self._facts.outputs]
        layout = self._mnn.Tensor_DimensionType_Caffe
        self._results = [(output, self._mnn.Tensor(output, layout)) for output in outputs]

    def _tensor(self, name: str, array: Array) -> Any:
        import numpy as np

        dtype = next(tensor.dtype for tensor in self._facts.inputs if tensor.name == name)
        values = np.ascontiguousarray(array, dtype=dtype)
        kind = getattr(self._mnn, _TYPES[dtype])
        return self._mnn.Tensor(values.shape, kind, values, self._mnn.Tensor_DimensionType_Caffe)

    def close(self) -> None:
        self._fixed, self._given, self._results = {}, {}, []
        self._session = self._interpreter = None
