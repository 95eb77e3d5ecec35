"""What a runtime is: something that opens a model for a device and runs it.

This module and every runtime's need NumPy and the standard library only: a small board gets nothing else. NumPy is
imported where something is computed, since the list of devices, which names runtimes, is shown in no time.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from nasdeploy.core.errors import UserError, suggestion
from nasdeploy.core.plan import Shape, TensorType

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn

    Array: TypeAlias = npt.NDArray[Any]
else:
    Array = Any

Precision = Literal["fp32", "fp16", "int8"]

Form = Literal["onnx", "ncnn", "mnn", "tflite", "module", "program"]
"""What a runtime opens: an ONNX file, one of its own that blocks are converted to as well, a PyTorch module in this
process, or only a file of its own that was exported."""

HERE_ONLY: tuple[Form, ...] = ("module", "program")
"""The forms of models that are never sent to a board."""


LARGEST_BATCH = 32
"""The largest batch that a file with a dynamic batch is made for, if the device's is not larger."""


@dataclass(frozen=True)
class TorchModel:
    """A module as PyTorch runs it.

    Not a file: those of `torch.export` are read with pickle, and their programs take up to twice the module's time.
    """

    module: "nn.Module"
    inputs: Mapping[str, TensorType]
    """The types of its inputs, by name, in their order."""


Model = bytes | Path | TorchModel
"""A file or its bytes, or a module, by the runtime's form."""


class Target(Protocol):
    """How a device runs networks: what a session needs to know of it. Devices are targets, and so is `LocalTarget`."""

    @property
    def name(self) -> str:
        """The device's name, for messages."""

    @property
    def runtime(self) -> str:
        """The key in `RUNTIMES`."""

    @property
    def precision(self) -> Precision:
        """The precision that the model was converted to; it counts in what the model does not say itself."""

    @property
    def batch(self) -> int:
        """The samples in a call, where the model leaves that open."""

    @property
    def threads(self) -> int:
        """The threads inside an operator."""

    @property
    def idle_ms(self) -> float:
        """The milliseconds of doing nothing before each call; sessions know nothing of it."""

    @property
    def options(self) -> Mapping[str, str]:
        """The other things that the runtime can be told."""

    @property
    def is_local(self) -> bool:
        """Whether it runs networks on this machine."""


@dataclass(frozen=True)
class LocalTarget:
    """A `Target` on this machine that needs no pydantic: what a board is sent, by way of `dataclasses.asdict`."""

    name: str
    runtime: str
    precision: Precision = "fp32"
    batch: int = 1
    threads: int = 1
    options: Mapping[str, str] = field(default_factory=dict)
    idle_ms: float = 0.0

    @classmethod
    def of(cls, target: Target) -> "LocalTarget":
        """Return what runs on the machine that `target` names, whichever that is."""
        return cls(
            target.name,
            target.runtime,
            target.precision,
            target.batch,
            target.threads,
            dict(target.options),
            target.idle_ms,
        )

    @property
    def is_local(self) -> bool:
        """Whether it runs here, as it always does: it says nothing of other machines."""
        return True


class Session(Protocol):
    """An opened model."""

    @property
    def inputs(self) -> Mapping[str, Shape]:
        """The shapes by input name, with the device's batch in place of a dynamic batch dimension."""

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Return the model's outputs, in its order, for one array per input (of any batch if the model's is dynamic).

        Raises `UserError` for an empty batch.
        """

    def call(self) -> None:
        """Make one call on fixed inputs of the device's batch, outputs left where they are: what is timed.

        They are random, and such as `random_input` draws them.
        """

    def close(self) -> None:
        """Give back the memory; the session cannot be used afterwards."""


class Runtime(Protocol):
    """One deployment runtime. Its own package is imported when it is used, never before."""

    form: Form

    precisions: tuple[Precision, ...]
    """What it runs."""

    largest_batch: int | None
    """The largest batch that a device may have, which is that of timed calls; None for any."""

    needs_gpu: bool
    """Whether models are computed by a GPU, and lie in its memory."""

    @property
    def oldest(self) -> str | None:
        """The first version that opens the models that are measured; None where none is known to be too old."""

    def missing(self) -> str | None:
        """Return what has to be installed for it, as a command; None if nothing. Imports nothing."""

    def obstacle(self) -> str | None:
        """Say what else keeps it from running on this machine, such as a driver, with what to do; None if nothing."""

    def version(self) -> str:
        """Return the version of the runtime, and what else of it moves latencies, such as the GPU; where it can run."""

    def computes(self, precision: Precision) -> Precision:
        """Return the precision that this machine computes in where a model is stored in `precision`."""

    def open(self, model: Model, device: Target) -> Session:
        """Open the model, in the runtime's form; raises `UserError` if the runtime refuses it."""


def require_samples(feeds: Mapping[str, Array]) -> None:
    """Raise `UserError` for an empty batch: runtimes answer it with whatever is left of the one before, or worse."""
    for name, array in feeds.items():
        if 0 in array.shape[:1]:
            raise UserError(f"input {name}: an empty batch, of shape {list(array.shape)}; give 1 image or more")


def timed_inputs_generator() -> "np.random.Generator":
    """Return the generator of what timed calls are given, which is the same for each session."""
    import numpy as np

    return np.random.default_rng(0)


def random_input(shape: Shape, dtype: "npt.DTypeLike", values: int | None, rng: "np.random.Generator") -> Array:
    """Draw what a timed call is given: normal floats, integers in `0..values - 1`; 0 or 1 where `values` is unknown."""
    import numpy as np

    if np.issubdtype(dtype, np.integer):
        return rng.integers(values or 2, size=shape, dtype=dtype)
    return rng.standard_normal(shape).astype(dtype)


VALUES = "values."
"""What the keys of an ONNX file's metadata begin with that say how many values an integer input has; then its name."""
_METADATA = 14
"""The number of `ModelProto.metadata_props` in ONNX's protobuf."""


def integer_values(model: bytes) -> dict[str, int]:
    """Return how many values the integer inputs of an ONNX file have, by name, as far as its metadata say so.

    Only the outermost message is read, which takes no time and, on a board, no package.
    """
    found = {}
    for number, content in _fields(memoryview(model)):
        if number == _METADATA:
            entry = {field: bytes(text).decode(errors="replace") for field, text in _fields(content)}
            key, value = entry.get(1, ""), entry.get(2, "")
            if key.startswith(VALUES) and value.isdecimal() and int(value) > 0:
                found[key.removeprefix(VALUES)] = int(value)
    return found


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Numbers and contents of the strings and messages in a protobuf message, up to where it is damaged."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        match tag & 7:
            case 0:
                _, at = _varint(message, at)
            case 1:
                at += 8
            case 2:
                size, at = _varint(message, at)
                yield tag >> 3, message[at : at + size]
                at += size
            case 5:
                at += 4
            case _:
                return


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of variable length, and the place after it."""
    value = shift = 0
    while at < len(message):
        byte, at = message[at], at + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return value, at


def content_of(model: Model) -> tuple[str, bytes]:
    """Return a name, for messages, and the content of a model; raises `UserError` if it cannot be read."""
    if isinstance(model, bytes):
        return "the model", model
    if isinstance(model, TorchModel):
        raise TypeError("a PyTorch module was given to a runtime that opens files")
    try:
        return str(model), model.read_bytes()
    except OSError as error:
        raise UserError(f"{model}: cannot be read ({error.strerror}); export it again") from None


def only(known: Sequence[str], device: Target) -> None:
    """Raise `UserError` if the device has an option that its runtime does not know."""
    for name in device.options:
        if name not in known:
            raise UserError(
                f"device {device.name}: option '{name}' is unknown to {device.runtime}{suggestion(name, known)}"
            )


@contextmanager
def silenced() -> Iterator[None]:
    """Leave out what native code meanwhile tells standard error."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 2)
        # Part of it comes by way of Python, which may keep it until later.
        with redirect_stderr(StringIO()):
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def wants(name: str, device: Target, *, default: bool = False) -> bool:
    """Whether the option called `name` is "true"; raises `UserError` if it is neither that nor "false"."""
    text = device.options.get(name, "true" if default else "false")
    if text not in ("true", "false"):
        raise UserError(f'device {device.name}: option \'{name}\' is "{text}"; write "true" or "false"')
    return text == "true"


def numbers(version: str) -> list[int]:
    """Return a version as numbers that can be compared, up to a part that is none: `[2026, 4]` of `2026.4.1rc1`."""
    return [int(part) for part in takewhile(str.isdigit, version.split("."))]
