"""ncnn on the CPU: the runtime of phones and small boards.

A model is two files, `NAME.param` and `NAME.bin`, of which the first is named; or, as bytes, a line with the length of
the first, then both (`packed`). ncnn's tensors have no batch: images are computed one after the other. A call hands
copies of its inputs over, as an application does with a picture, and reads the outputs.

`main` runs a model once and prints the shapes of its outputs: in a process of its own, which a damaged model may end.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.core.plan import Shape
from nasdeploy.runtimes.ncnn_files import NcnnInput, NcnnModel
from nasdeploy.runtimes.runtime import (
    Array,
    Form,
    LocalTarget,
    Model,
    Precision,
    Target,
    content_of,
    only,
    random_input,
    require_samples,
    timed_inputs_generator,
    wants,
)

_SWITCHES = (
    "use_packing_layout",
    "use_winograd_convolution",
    "use_winograd23_convolution",
    "use_winograd43_convolution",
    "use_winograd63_convolution",
    "use_sgemm_convolution",
)
_BLOCKTIME = "openmp_blocktime"
OPTIONS = (*_SWITCHES, _BLOCKTIME)
"""The fields of `ncnn.Option` that a device may set: switches, "true" or "false", and the milliseconds that threads
wait busily for more work."""
_HALF = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic")
_UNUSED = ("use_bf16_storage", "use_vulkan_compute")
_FIRST = b"ncnn "


def packed(model: NcnnModel) -> bytes:
    """Return a model as bytes: a line with the length of its graph, the graph, the weights."""
    return b"%s%d\n%s%s" % (_FIRST, len(model.param), model.param, model.bin)


def read(content: bytes) -> NcnnModel:
    """Return the model of such bytes; raises `ValueError`, in words, for others."""
    line = content[:32].partition(b"\n")[0]
    length = line.removeprefix(_FIRST)
    if not content.startswith(_FIRST) or not length.isdigit() or int(length) > len(content):
        raise ValueError("it does not begin as a model does")
    start = len(line) + 1
    end = start + int(length)
    return NcnnModel.parse(content[start:end], content[end:])


def read_files(path: Path) -> NcnnModel:
    """Return the model of `NAME.param` and the file beside it.

    Raises `ValueError`, in words, for what ncnn might stumble over, and `UserError` for a file that cannot be read.
    """
    return NcnnModel.parse(*(content_of(file)[1] for file in (path, path.with_suffix(".bin"))))


class Ncnn:
    """ncnn in fp32, and in fp16 on processors that compute in it; on others it takes models in fp16 all the same."""

    form: Form = "ncnn"
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    largest_batch: int | None = 1
    needs_gpu: bool = False
    oldest: str | None = None

    def missing(self) -> str | None:
        """Return the command that installs it, or None."""
        return None if find_spec("ncnn") else "pip install ncnn"

    def obstacle(self) -> str | None:
        """Return None: every machine has a CPU."""
        return None

    def version(self) -> str:
        """Return the version of the package."""
        import ncnn

        return str(ncnn.__version__)

    def computes(self, precision: Precision) -> Precision:
        """Return fp16 on processors of the ARM family with its arithmetic (from v8.2 on) only."""
        import ncnn

        return precision if precision == "fp32" or ncnn.cpu_support_arm_asimdhp() else "fp32"

    def open(self, model: Model, device: Target) -> "NcnnSession":
        """Load a model; raises `UserError` for one that is damaged, or an option that is unknown."""
        only(OPTIONS, device)
        name = str(model) if isinstance(model, Path) else "the model"
        try:
            parsed = read_files(model) if isinstance(model, Path) else read(content_of(model)[1])
            return NcnnSession(parsed, device)
        except ValueError as error:
            raise UserError(f"{name}: ncnn cannot load it ({one_line(error)}); export it again") from None


class NcnnSession:
    """A loaded model."""

    def __init__(self, model: NcnnModel, device: Target) -> None:
        import ncnn

        self._mat: Any = ncnn.Mat
        self._given: Mapping[str, NcnnInput] = model.inputs
        self._results: Sequence[str] = model.outputs
        if not self._given or not self._results:
            raise ValueError("it has no input or no output")
        self._net: Any = ncnn.Net()
        _configure(self._net.opt, device)
        with TemporaryDirectory() as folder:
            graph, weights = Path(folder, "model.param"), Path(folder, "model.bin")
            graph.write_bytes(model.param)
            weights.write_bytes(model.bin)
            if self._net.load_param(str(graph)) or self._net.load_model(str(weights)):
                raise ValueError("it says no more")
        rng = timed_inputs_generator()
        self._fixed = {
            name: _typed(random_input(each.shape, "float32" if each.values is None else "int32", each.values, rng))
            for name, each in self._given.items()
        }

    @property
    def inputs(self) -> Mapping[str, Shape]:
        """One image in a call."""
        return {name: (1, *each.shape) for name, each in self._given.items()}

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """Run one image after the other."""
        import numpy as np

        require_samples(feeds)
        arrays = {name: _typed(feeds[name]) for name in self._given}
        for name, array in arrays.items():
            if array.shape[1:] != self._given[name].shape:
                raise UserError(f"input {name}: of shape {list(array.shape)}, and the model takes {self.inputs[name]}")
        rows = [dict(zip(arrays, row, strict=True)) for row in zip(*arrays.values(), strict=True)]
        outputs = [[np.array(mat) for mat in self._extracted(row)] for row in rows]
        return [np.stack(column) for column in zip(*outputs, strict=True)]

    def call(self) -> None:
        """Run on inputs that stay the same."""
        self._extracted(self._fixed)

    def close(self) -> None:
        """Give back the memory."""
        self._net.clear()
        self._net, self._fixed = None, {}

    def _extracted(self, arrays: Mapping[str, Array]) -> list[Any]:
        """Return the outputs as ncnn has them; raises `UserError` if it cannot compute one."""
        extractor = self._net.create_extractor()
        for name, array in arrays.items():
            # What refers to NumPy's memory has no owner for ncnn, which it asks for before it writes over an input.
            extractor.input(name, self._mat(array).clone())
        found = []
        for name in self._results:
            code, mat = extractor.extract(name)
            if code:
                raise UserError(f"output {name}: ncnn cannot compute it (code {code}); use another runtime")
            found.append(mat)
        return found


def _configure(options: Any, device: Target) -> None:
    """Set what ncnn is told of a device; raises `UserError` for a value that an option cannot have."""
    options.num_threads = device.threads
    for name in _HALF:
        setattr(options, name, device.precision == "fp16")
    for name in _UNUSED:
        setattr(options, name, False)
    for name in device.options:
        setattr(options, name, _milliseconds(device) if name == _BLOCKTIME else wants(name, device))


def _milliseconds(device: Target) -> int:
    text = device.options[_BLOCKTIME]
    if not (text.isascii() and text.isdigit() and int(text) <= _LONGEST_MS):
        raise UserError(
            f"device {device.name}: option '{_BLOCKTIME}' is \"{text}\"; write milliseconds, 0 to {_LONGEST_MS}"
        )
    return int(text)


_LONGEST_MS = 400
"""The longest that ncnn's OpenMP waits busily."""


def _typed(array: Array) -> Array:
    """Return an array of the type that ncnn computes in."""
    import numpy as np

    wanted = np.int32 if np.issubdtype(array.dtype, np.integer) else np.float32
    return np.ascontiguousarray(array, dtype=wanted)


def main() -> None:
    """Print, as JSON, the shapes of the outputs of the model that is named, without a batch, after running it once."""
    import numpy as np

    try:
        session = Ncnn().open(Path(sys.argv[1]), LocalTarget("here", "ncnn"))
        zeros = {name: np.zeros(shape, np.float32) for name, shape in session.inputs.items()}
        print(json.dumps([output.shape[1:] for output in session.run(zeros)]))
    except UserError as error:
        sys.exit(str(error))
