"""From PyTorch modules to ncnn by its converter, pnnx: dozens of modules in a call.

The modules become independent branches of one, with inputs and outputs of their own, and the graph that comes out is
taken apart again. pnnx reads ONNX in a third of the time that it takes for traced modules, and makes the same layers of
both for the families of blocks that take images. What is no such block is traced.
"""

import re
import subprocess
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import onnx
import torch
from onnx import ModelProto, helper, numpy_helper
from torch import Tensor, nn

from nasdeploy.convert.fast_export import example, quick_onnx
from nasdeploy.core.cpus import parallelism
from nasdeploy.core.errors import ConversionRefused, UserError, one_line
from nasdeploy.core.plan import Shape, TensorType
from nasdeploy.runtimes.ncnn import packed
from nasdeploy.runtimes.ncnn_files import NcnnModel
from nasdeploy.runtimes.ncnn_layers import is_known
from nasdeploy.runtimes.runtime import Model, Precision, Target

if TYPE_CHECKING:
    from nasdeploy.convert.measured import MeasuredModule

INSTALL = "pip install pnnx"
_LONGEST_S = 3600
_CPU = torch.device("cpu")


_CALL = 24
"""The modules of a call of pnnx, which takes half a second to start, and for 100 blocks twice as long a block as for
20."""

Modules = Sequence[tuple[nn.Module, Sequence[TensorType]]]


class NcnnConverter:
    """ncnn's two files in one; in fp16 the weights are stored in it, inputs and outputs are fp32."""

    together = _CALL * 2

    def convert(self, modules: Iterable["MeasuredModule"], device: Target) -> list[Model | ConversionRefused]:
        """Return models, by two calls of pnnx at a time; raises `UserError` if it is not installed."""
        pairs = [(each.module, each.inputs) for each in modules]
        calls = [pairs[first : first + _CALL] for first in range(0, len(pairs), _CALL)]
        # Most of the time is pnnx's, in processes of their own.
        with ThreadPoolExecutor(min(len(calls), parallelism())) as pool:
            found = [model for some in pool.map(lambda call: to_ncnn(call, device.precision), calls) for model in some]
        return [packed(each) if isinstance(each, NcnnModel) else each for each in found]


def to_ncnn(modules: Modules, precision: Precision = "fp32") -> list[NcnnModel | ConversionRefused]:
    """Return a model of each module for inputs of these types, in evaluation mode, or why there is none.

    The blobs that they take and give are called `input.0`, `output.0` and so on. Weights are stored in `precision`.
    Raises `UserError` if pnnx is not installed.
    """
    tool = _tool()
    # Two calls, since pnnx reads one file.
    groups: dict[bool, list[tuple[nn.Module, Sequence[TensorType]]]] = {}
    for module, types in modules:
        groups.setdefault(_take_images(types), []).append((module, types))
    found = {kind: iter(_together(tool, group, precision)) for kind, group in groups.items()}
    return [next(found[_take_images(types)]) for _, types in modules]


def _take_images(types: Sequence[TensorType]) -> bool:
    return all(len(each.shape) == 3 for each in types)


def _together(tool: Path, modules: Modules, precision: Precision) -> list[NcnnModel | ConversionRefused]:
    try:
        branches = _Branches([module.eval() for module, _ in modules], [len(types) for _, types in modules])
        with TemporaryDirectory() as folder:
            made = branches.converted(tool, [each for _, types in modules for each in types], precision, folder)
    except ConversionRefused as error:
        return [error] if len(modules) == 1 else _in_halves(modules, precision)
    places = branches.places()
    unknown = _unknown_operators(made.param.decode(errors="replace"), places)
    if unknown:
        return _without(unknown, modules, precision)
    try:
        whole = NcnnModel.parse(made.param, made.weights)
        return [_part(whole, made.alone, place, types) for place, (_, types) in zip(places, modules, strict=True)]
    except ValueError as error:
        return [_refusal(str(error))] if len(modules) == 1 else _in_halves(modules, precision)


def _refusal(reason: str) -> ConversionRefused:
    return ConversionRefused(f"pnnx cannot convert it ({one_line(reason)}); use another runtime")


def _in_halves(modules: Modules, precision: Precision) -> list[NcnnModel | ConversionRefused]:
    """Convert in two calls what one call stumbles over: one module among them is why."""
    half = len(modules) // 2
    return [*to_ncnn(modules[:half], precision), *to_ncnn(modules[half:], precision)]


def _without(unknown: Mapping[int, str], modules: Modules, precision: Precision) -> list[NcnnModel | ConversionRefused]:
    """Convert once more, without modules with operators that ncnn does not have: what follows them cannot be read."""
    sound = [each for number, each in enumerate(modules) if number not in unknown]
    made = iter(to_ncnn(sound, precision) if sound else [])
    return [
        _refusal(f"operator {unknown[number]} is none that ncnn has") if number in unknown else next(made)
        for number in range(len(modules))
    ]


@dataclass(frozen=True)
class _Place:
    """The inputs and outputs of a branch, by the names that pnnx gives to those of the whole."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: tuple[Shape, ...]
    """The shapes of the outputs, without the batch."""


@dataclass(frozen=True)
class _Converted:
    """What pnnx makes."""

    param: bytes
    weights: bytes
    alone: frozenset[str]
    """The inputs and outputs that have no batch; of others pnnx did not see that the first dimension is one."""


class _Branches(nn.Module):
    """Modules side by side."""

    def __init__(self, modules: Sequence[nn.Module], inputs: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(modules)
        self._inputs = inputs
        self._outputs: list[list[Shape]] = []

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...] | Tensor:
        given = iter(inputs)
        results: list[Tensor] = []
        self._outputs = []
        for module, count in zip(self.branches, self._inputs, strict=True):
            found = module(*islice(given, count))
            made = found if isinstance(found, tuple) else (found,)
            self._outputs.append([tuple(int(size) for size in each.shape[1:]) for each in made])
            results += made
        return tuple(results) if len(results) > 1 else results[0]

    def places(self) -> list[_Place]:
        """Return the inputs and outputs of each branch, once it was computed."""
        inputs, outputs = _numbered("in"), _numbered("out")
        return [
            _Place(tuple(islice(inputs, taken)), tuple(islice(outputs, len(shapes))), tuple(shapes))
            for taken, shapes in zip(self._inputs, self._outputs, strict=True)
        ]

    def converted(self, tool: Path, types: Sequence[TensorType], precision: Precision, folder: str) -> _Converted:
        """Return what pnnx makes of them, which leaves much in `folder`; raises `ConversionRefused` if it fails."""
        source = self._written(types, folder)
        shapes = ",".join(f"[{','.join(map(str, (1, *each.shape)))}]{_NAMES[each.dtype]}" for each in types)
        # It also writes graphs of its own, with all weights in each.
        unused = [f"{name}=/dev/null" for name in ("pnnxparam", "pnnxbin", "pnnxpy", "pnnxonnx")]
        command = [str(tool), str(source), f"inputshape={shapes}", f"fp16={int(precision == 'fp16')}", *unused]
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", check=False, timeout=_LONGEST_S
        )
        made = [Path(folder, name) for name in ("modules.ncnn.param", "modules.ncnn.bin", "modules_ncnn.py")]
        if done.returncode or not all(path.is_file() for path in made):
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise _refusal(lines[-1] if lines else f"it ends with code {done.returncode}")
        param, weights, program = (path.read_bytes() for path in made)
        return _Converted(param, weights, frozenset(_ALONE.findall(program.decode(errors="replace"))))

    def _written(self, types: Sequence[TensorType], folder: str) -> Path:
        """Write what pnnx reads: ONNX of what takes images only, where all functions are known, else a trace."""
        if _take_images(types):
            try:
                model = onnx.load_from_string(quick_onnx(self, types, 1))
            except NotImplementedError:
                pass
            else:
                _pool(model)
                path = Path(folder, "modules.onnx")
                path.write_bytes(model.SerializeToString())
                return path
        path = Path(folder, "modules.pt")
        given = tuple(example(each, 1, _CPU) for each in types)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced: Any = torch.jit.trace
            traced(self, given, check_trace=False).save(str(path))
        return path


def _pool(model: ModelProto) -> None:
    """Write the means of whole images as pooling, which pnnx makes faster layers of."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        known = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        if node.op_type != "ReduceMean" or not known.get("keepdims", 1):
            continue
        axes = numpy_helper.to_array(weights[node.input[1]]) if len(node.input) > 1 else known.get("axes", ())
        if sorted(axes) == [-2, -1]:
            node.op_type = "GlobalAveragePool"
            del node.attribute[:], node.input[1:]


_ALONE = re.compile(r"\b((?:in|out)\d+)\.numpy\((?:\), )?batch_index=0\)")
"""Where the program that pnnx writes beside its files takes the batch from an input, or gives it to an output."""
_NAMES: Mapping[str, str] = {"float32": "f32", "int64": "i64"}


def _numbered(name: str) -> Iterator[str]:
    number = 0
    while True:
        yield f"{name}{number}"
        number += 1


def _unknown_operators(param: str, places: Sequence[_Place]) -> dict[int, str]:
    """Return the first operator that ncnn does not have of each branch with one, by the branch's number."""
    reached: dict[str, str] = {}
    """The blobs that such operators are behind, with the first of them."""
    for line in param.splitlines()[2:]:
        kind, _, taken, given, *words = line.split()
        inputs, outputs = words[: int(taken)], words[int(taken) : int(taken) + int(given)]
        before = next((reached[name] for name in inputs if name in reached), None)
        operator = before or (None if is_known(kind) else kind)
        if operator is not None:
            reached.update(dict.fromkeys(outputs, operator))
    found = {
        number: [reached[name] for name in place.outputs if name in reached] for number, place in enumerate(places)
    }
    return {number: operators[0] for number, operators in found.items() if operators}


def _part(whole: NcnnModel, alone: frozenset[str], place: _Place, types: Sequence[TensorType]) -> NcnnModel:
    """Return one branch, whose inputs and outputs have no batch."""
    given = {name: (1, *each.shape) for name, each in zip(place.inputs, types, strict=True) if name not in alone}
    made = {name: shape for name, shape in zip(place.outputs, place.shapes, strict=True) if name not in alone}
    names = {name: f"input.{number}" for number, name in enumerate(place.inputs)}
    shapes = {f"input.{number}": tensor.shape for number, tensor in enumerate(types)}
    results = {name: f"output.{number}" for number, name in enumerate(place.outputs)}
    return whole.part(place.outputs).reshaped(given, made).renamed(names | results, shapes)


def _tool() -> Path:
    """Return pnnx's program, which is run without the package around it; raises `UserError` if it is not there."""
    spec = find_spec("pnnx")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        tool = Path(folder, "pnnx")
        if tool.is_file():
            return tool
    raise UserError(f"the converter to ncnn is not installed; run: {INSTALL}")
