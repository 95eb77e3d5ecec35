"""LiteRT (TensorFlow Lite) on the CPU, with XNNPACK's kernels; a device's option `xnnpack: "false"` is for its own.

A file has a batch of its own, that of the device that it was converted for. More images are done one batch after the
other. Latency is that of a call as an application makes it: inputs are copied in, and outputs out.
"""

import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from platform import machine
from typing import Any

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.core.plan import Shape
from nasdeploy.runtimes.runtime import (
    VALUES,
    Array,
    Form,
    LocalTarget,
    Model,
    Precision,
    Session,
    Target,
    content_of,
    only,
    random_input,
    require_samples,
    silenced,
    timed_inputs_generator,
    wants,
)
from nasdeploy.runtimes.tflite_file import DamagedFile, read_tflite

_XNNPACK = "xnnpack"
_CPUINFO = Path("/proc/cpuinfo")
_HALF = {"asimdhp", "fphp", "avx512_fp16"}
"""The features, as Linux names them, of processors that compute in fp16: Arm's from version 8.2 on, few of x86."""


class LiteRt:
    """LiteRT's interpreter. In fp16 the file says that it may be computed so, and XNNPACK does where it can."""

    form: Form = "tflite"
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    largest_batch: int | None = None
    needs_gpu: bool = False
    oldest: str | None = None

    def missing(self) -> str | None:
        """Return the command that installs it, or None."""
        return None if find_spec("ai_edge_litert") else "pip install ai-edge-litert"

    def obstacle(self) -> str | None:
        """Return None: every machine has a CPU."""
        return None

    def version(self) -> str:
        """Return the version of the package."""
        return version("ai-edge-litert")

    def computes(self, precision: Precision) -> Precision:
        """Return fp32 for fp16 on processors without it, as most of x86 and the Raspberry Pi 4's are."""
        return "fp32" if precision == "fp16" and not computes_half() else precision

    def open(self, model: Model, device: Target) -> Session:
        """Open the file; raises `UserError` for what is none, is damaged, or takes another batch than the device's."""
        only((_XNNPACK,), device)
        xnnpack = wants(_XNNPACK, device, default=True)
        name, content = content_of(model)
        try:
            session = LiteRtSession(content, device.threads, xnnpack)
        except (ValueError, RuntimeError) as error:
            raise UserError(f"{name}: LiteRT cannot load it ({one_line(error)}); export it again") from None
        if session.batch != device.batch:
            raise UserError(
                f"{name}: takes {session.batch} image{'s' if session.batch > 1 else ''} in a call, and device "
                f"{device.name} gives {device.batch}; export it again for that device"
            )
        return session


def computes_half(cpuinfo: Path = _CPUINFO) -> bool:
    """Return whether this machine's processor computes in fp16."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        # Apple's all do.
        return machine() == "arm64"
    return any(_HALF & set(line.split()) for line in lines if line.startswith(("Features", "flags")))


def integer_values(notes: Mapping[str, bytes]) -> dict[str, int]:
    """Return how many values the integer inputs of a file have, by name, as far as its notes say so."""
    found = {key.removeprefix(VALUES): text.decode() for key, text in notes.items() if key.startswith(VALUES)}
    return {name: int(text) for name, text in found.items() if text.isdecimal() and int(text) > 0}


class LiteRtSession:
    """An opened file."""

    def __init__(self, content: bytes, threads: int, xnnpack: bool) -> None:
        """Raise `DamagedFile` for what must not be opened, `ValueError` or `RuntimeError` for what LiteRT refuses."""
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        found = read_tflite(content)
        self.given, self.results = found.inputs, found.outputs
        if not self.given or any(not each.shape for each in (*self.given, *self.results)):
            raise DamagedFile("it has no inputs and outputs of samples")
        kernels = OpResolverType.AUTO if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        # It tells standard error that there is a delegate.
        with silenced():
            self._interpreter: Any = Interpreter(
                model_content=content, num_threads=threads, experimental_op_resolver_type=kernels
            )
            self._interpreter.allocate_tensors()
        self.batch = self.given[0].shape[0]
        values, rng = integer_values(found.metadata), timed_inputs_generator()
        self._fixed = [random_input(each.shape, each.dtype, values.get(each.name), rng) for each in self.given]

    @property
    def inputs(self) -> Mapping[str, Shape]:
        """The shapes with the file's batch."""
        return {each.name: each.shape for each in self.given}

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Run as often as the samples need it; what the last batch lacks is filled up with its first sample."""
        import numpy as np

        require_samples(feeds)
        arrays = [feeds[each.name] for each in self.given]
        parts = [
            self._run([array[start : start + self.batch] for array in arrays])
            for start in range(0, len(arrays[0]), self.batch)
        ]
        return [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]

    def _run(self, arrays: Sequence[Array]) -> list[Array]:
        import numpy as np

        count = len(arrays[0])
        lacking = self.batch - count
        filled = [np.concatenate([array, array[:1].repeat(lacking, axis=0)]) if lacking else array for array in arrays]
        return [output[:count] for output in self._called(filled)]

    def call(self) -> None:
        """Copy the fixed inputs in, compute, and copy the outputs out."""
        self._called(self._fixed)

    def _called(self, arrays: Sequence[Array]) -> list[Array]:
        for tensor, array in zip(self.given, arrays, strict=True):
            self._interpreter.set_tensor(tensor.index, array)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(tensor.index) for tensor in self.results]

    def close(self) -> None:
        """Give back the memory."""
        self._interpreter = None
        self._fixed = []


def main() -> None:
    """Run the file that is named once; the last line of its errors says what went wrong."""
    path = Path(sys.argv[1])
    try:
        batch = read_tflite(path.read_bytes()).inputs[0].shape[0]
        LiteRt().open(path, LocalTarget("here", "litert", batch=batch)).call()
    except (UserError, ValueError, RuntimeError, IndexError) as error:
        sys.exit(one_line(error))


if __name__ == "__main__":
    main()
