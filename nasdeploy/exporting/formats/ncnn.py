"""ncnn's two files: `model.param` describes the graph, and `model.bin` beside it holds the weights."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.exporting.formats.format import (
    ExampleProgram,
    Interchange,
    Source,
    lacking,
    mismatch,
    run_apart,
    why_ended,
)
from nasdeploy.exporting.manifest import TensorFacts
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.ncnn import packed, read_files
from nasdeploy.runtimes.runtime import Precision

_APART = "from nasdeploy.runtimes.ncnn import main; main()"


class NcnnFormat(Interchange):
    """One image in a call: ncnn has no batches. In fp16 the weights are stored in it."""

    suffixes = (".param", ".bin")
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    package = "ncnn"
    # Without OpenMP ncnn's static library, which its own build installs, lacks symbols.
    example = ExampleProgram(
        "predict_ncnn.cpp",
        "g++ -O2 -fopenmp -o predict predict_ncnn.cpp -lncnn",
        "ncnn's library and headers, which its Python package does not have: build them\n"
        "from https://github.com/Tencent/ncnn, by `cmake -DCMAKE_INSTALL_PREFIX=/usr/local` and `make install`",
    )

    def runtime(self, device: Device) -> str:
        """Return ncnn."""
        return "ncnn"

    def recipe(self, device: Device) -> str:
        """Return that of its ONNX model: it is not quantised itself."""
        return "onnxruntime"

    def largest_batch(self, device: Device) -> int:
        """Return 1."""
        return 1

    def missing(self) -> str | None:
        """Return the command that installs its converter, or None."""
        return lacking("pnnx", "pnnx", "20250101")

    def write(self, source: Source, path: Path) -> None:
        """Convert, which takes a few seconds; raises `UserError` for a network that the converter refuses."""
        from nasdeploy.convert.ncnn import to_ncnn

        part = source.network.plan.only
        (made,) = to_ncnn([(source.network, [tensor for _, tensor in part.inputs])], source.precision)
        if isinstance(made, UserError):
            raise UserError(f"format ncnn: {made}")
        names = {"input.0": "input", "output.0": "logits"}
        ((_, tensor),) = part.inputs
        named = made.renamed(names, {"input": tensor.shape})
        path.write_bytes(named.param)
        path.with_suffix(".bin").write_bytes(named.bin)

    def model_in(self, path: Path) -> bytes:
        """Return both files as one; raises `UserError` for what ncnn might stumble over."""
        try:
            return packed(read_files(path))
        except ValueError as error:
            raise UserError(f"{path}: ncnn cannot load it ({one_line(error)}); export it again") from None

    def inspect(self, path: Path, inputs: Sequence[TensorFacts], outputs: Sequence[TensorFacts]) -> list[str]:
        """Return what the files say that ncnn might stumble over, inputs and outputs that are not as they should be,
        and whether the model runs, which is tried in a process of its own."""
        try:
            model = read_files(path)
            given = [f"{name} {_sizes(each.shape)}" for name, each in model.inputs.items()]
        except ValueError as error:
            return [f"ncnn: {one_line(error)}"]
        found = mismatch("input", given, [f"{tensor.name} {_sizes(tensor.shape[1:])}" for tensor in inputs])
        found += mismatch("output", model.outputs, [tensor.name for tensor in outputs])
        if found:
            return found
        shapes = _shapes_by_running(path)
        if isinstance(shapes, str):
            return [f"ncnn: {shapes}"]
        return mismatch("output", [_sizes(shape) for shape in shapes], [_sizes(tensor.shape[1:]) for tensor in outputs])


def _sizes(shape: Sequence[int | str]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _shapes_by_running(path: Path) -> list[list[int]] | str:
    """Return the shapes of the outputs, or what went wrong."""
    done = run_apart("-c", _APART, path)
    if done.returncode < 0:
        return why_ended(done)
    try:
        found: Any = json.loads(done.stdout)
    except ValueError:
        return why_ended(done)
    return [list(shape) for shape in found]
