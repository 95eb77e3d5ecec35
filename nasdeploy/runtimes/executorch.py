"""ExecuTorch on the CPU, with XNNPACK's kernels. It takes no options.

It opens `.pte` files, which nothing but an export writes: converting a block takes seconds, so that the hundreds of a
latency table would take most of an hour. Its threads are one pool of the process, which cannot be changed while a model
is open: that would end the process. Of a damaged model the header and the graph are checked, by ExecuTorch; what is
wrong inside XNNPACK's part may still end the process.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any
from weakref import WeakSet

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.core.plan import Shape
from nasdeploy.runtimes.runtime import (
    Array,
    Form,
    Model,
    Precision,
    Target,
    TorchModel,
    content_of,
    only,
    random_input,
    require_samples,
    silenced,
    timed_inputs_generator,
)

_HEADER = 40
"""The bytes from the start to the end of the extended header."""
_METHOD = "forward"
_TYPES = {4: "int64", 6: "float32"}
"""The types by ExecuTorch's `ScalarType`, as far as exports have them."""


class ExecuTorch:
    """Programs of ExecuTorch in fp32."""

    form: Form = "program"
    precisions: tuple[Precision, ...] = ("fp32",)
    largest_batch: int | None = None
    needs_gpu: bool = False
    oldest: str | None = None

    def __init__(self) -> None:
        self._opened: WeakSet[ExecuTorchSession] = WeakSet()

    def missing(self) -> str | None:
        """Return the command that installs it, or None."""
        return None if find_spec("executorch") else "pip install executorch"

    def obstacle(self) -> str | None:
        """Return None: every machine has a CPU."""
        return None

    def version(self) -> str:
        """Return the version of the package."""
        return version("executorch")

    def computes(self, precision: Precision) -> Precision:
        """Return the model as it is stored."""
        return precision

    def open(self, model: Model, device: Target) -> "ExecuTorchSession":
        """Open the program; raises `UserError` for what is none, is damaged, or takes no batch of the device's size."""
        name, content = _content(model)
        only((), device)
        # Of processors and damaged files; errors say that as well.
        with silenced():
            self._choose_threads(device)
            try:
                check_program(content)
                session = ExecuTorchSession(content, device.batch)
            except (ValueError, RuntimeError) as error:
                raise UserError(f"{name}: ExecuTorch cannot load it ({one_line(error)}); export it again") from None
        if device.batch > session.largest:
            raise UserError(
                f"{name}: takes at most {session.largest} images in a call, and device {device.name} gives "
                f"{device.batch}; export it again for that device"
            )
        self._opened.add(session)
        return session

    def _choose_threads(self, device: Target) -> None:
        native = _native()
        threads = native._threadpool_get_thread_count()
        if threads == device.threads:
            return
        # Their pool would be taken away from them, and their next call would end the process.
        if any(session.is_open for session in self._opened):
            raise UserError(
                f"device {device.name}: ExecuTorch has one number of threads a process, and a model is open on "
                f"{threads}; run this one by a command of its own"
            )
        native._unsafe_reset_threadpool(device.threads)


@dataclass(frozen=True)
class ProgramTensor:
    """An input or output of a program."""

    dtype: str
    shape: Shape
    """The largest."""


def check_program(content: bytes) -> None:
    """Raise `ValueError`, in words, for what does not begin as a program does, or is not whole.

    The header is that of ExecuTorch's `extended_header.h`: at 4 the identifier `ETnn`, at 8 `eh00`, then, little-endian
    as all numbers, its length in 4 bytes and, in 8 bytes each, the graph's size and the offset and size of the data.
    """
    if len(content) < _HEADER or content[4:6] != b"ET" or content[8:12] != b"eh00":
        raise ValueError("it does not begin as a program does")
    graph, offset, data = (int.from_bytes(content[at : at + 8], "little") for at in (16, 24, 32))
    size = max(graph, offset + data)
    if size != len(content):
        raise ValueError(f"it has {len(content)} bytes, and its header says {size}")


def _native() -> Any:
    """Import the native part, after torch, whose tensors it uses; the package around it imports the exporter."""
    import torch  # noqa: F401
    from executorch.extension.pybindings import _C

    return _C


def _content(model: Model) -> tuple[str, bytes]:
    """Return a name, for messages, and content."""
    if isinstance(model, TorchModel):
        raise UserError(
            "the model: ExecuTorch opens .pte files, not modules; write one with `nd.export(format=executorch)`"
        )
    return content_of(model)


class ExecuTorchSession:
    """An opened program."""

    def __init__(self, content: bytes, batch: int) -> None:
        native = _native()
        # The program refers to the bytes, and the method to the program.
        self._content = content
        self._program = native._load_program_from_buffer(
            content, program_verification=native.Verification.InternalConsistency
        )
        meta = self._program.method_meta(_METHOD)
        self.given = [_tensor(meta.input_tensor_meta(number)) for number in range(meta.num_inputs())]
        self.results = [_tensor(meta.output_tensor_meta(number)) for number in range(meta.num_outputs())]
        if not self.given or any(not each.shape for each in self.given):
            raise ValueError("it has no input of images")
        self._method: Any = self._program.load_method(_METHOD)
        self.largest = min(each.shape[0] for each in self.given)
        names = ["input"] if len(self.given) == 1 else [f"input.{number}" for number in range(len(self.given))]
        shapes = [(batch, *each.shape[1:]) for each in self.given]
        self._inputs = dict(zip(names, shapes, strict=True))
        rng = timed_inputs_generator()
        # A program does not say how many values its integers have.
        types = [each.dtype if each.dtype in _TYPES.values() else "float32" for each in self.given]
        self._fixed = _tensors([random_input(*each, None, rng) for each in zip(shapes, types, strict=True)])

    @property
    def is_open(self) -> bool:
        """Whether it was not closed."""
        return self._method is not None

    @property
    def inputs(self) -> Mapping[str, Shape]:
        """Run with the device's batch."""
        return self._inputs

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Run in parts where there are more samples than the program's memory was planned for."""
        import numpy as np

        require_samples(feeds)
        arrays = [feeds[name] for name in self._inputs]
        starts = range(0, len(arrays[0]), self.largest)
        parts = [self._run([array[start : start + self.largest] for array in arrays]) for start in starts]
        return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]

    def _run(self, arrays: Sequence[Array]) -> list[Array]:
        return [output.numpy() for output in self._method(_tensors(arrays), True)]

    def call(self) -> None:
        """Run on inputs that stay the same."""
        # Inputs are handed over each time: their memory is used again for what is computed from them.
        self._method(self._fixed, False)

    def close(self) -> None:
        """Give back the memory."""
        self._method = self._program = None
        self._content = b""
        self._fixed = ()


def _tensor(meta: Any) -> ProgramTensor:
    return ProgramTensor(_TYPES.get(meta.dtype(), f"type {meta.dtype()}"), tuple(meta.sizes()))


def _tensors(arrays: Sequence[Array]) -> tuple[Any, ...]:
    import numpy as np
    import torch

    return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays)
