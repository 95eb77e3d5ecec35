"""Programs of `torch.export`: as they are, in a `.pt2` file, and for ExecuTorch, in a `.pte` file.

PyTorch loads a `.pt2` file without the classes that it was written from. ExecuTorch's program is for its XNNPACK
backend, which runs on phones and boards. It is converted and tried in processes of their own: conversion logs and warns
a good deal, and a damaged file may end the process that runs it. Such a process is told `convert FILE.pt2 FILE.pte`, or
`describe FILE.pte`, which prints the program's inputs and outputs as JSON and then runs it.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

from pydantic import TypeAdapter, ValidationError

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.core.plan import TensorType
from nasdeploy.exporting.formats.format import Interchange, Source, lacking, mismatch, run_apart, why_ended
from nasdeploy.exporting.manifest import TensorFacts
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.executorch import ExecuTorch, ProgramTensor, check_program
from nasdeploy.runtimes.runtime import LARGEST_BATCH, LocalTarget, Precision, Session, TorchModel

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from nasdeploy.nn.network import Network


_PLAIN = (".json", "/archive_format", "/archive_version", "/byteorder", "/.data/version", "/.data/serialization_id")
"""Ends of the names of entries in which no pickle is read."""
_WEIGHTS = "/data/weights/"


class TorchFormat(Interchange):
    """Weights as raw numbers and a graph as JSON: the file holds no pickle, and one that does is not loaded."""

    suffixes = (".pt2",)
    precisions: tuple[Precision, ...] = ("fp32",)

    def runtime(self, device: Device) -> str:
        """Return PyTorch."""
        return "torch"

    def recipe(self, device: Device) -> str:
        """Return that of its ONNX model: it is not quantised itself."""
        return "onnxruntime"

    def write(self, source: Source, path: Path) -> None:
        """Export for any batch."""
        save_program(source.network, path)

    def open(self, path: Path, device: Device) -> Session:
        """Open it in PyTorch; raises `UserError` for a file that is damaged or holds a pickle."""
        return runtime_of(device).open(self.model_in(path), device)

    def model_in(self, path: Path) -> TorchModel:
        """Return the program of a file as a module; raises `UserError` if it is damaged or holds a pickle."""
        try:
            program = _load(path)
        # Whatever the reader meets in a damaged file.
        except Exception as error:
            raise UserError(f"{path}: PyTorch cannot load it ({one_line(error)}); export it again") from None
        inputs = {name: TensorType(tuple(shape[1:])) for name, shape in _inputs(program)}
        return TorchModel(program.module(), inputs)

    def inspect(self, path: Path, inputs: Sequence[TensorFacts], outputs: Sequence[TensorFacts]) -> list[str]:
        """Return what the reader finds, pickles, and inputs and outputs that are not as they should be."""
        try:
            program = _load(path)
        # Whatever the reader meets in a damaged file.
        except Exception as error:
            return [f"torch.export: {one_line(error)}"]
        found, wanted = [_text(*each) for each in _inputs(program)], [_text(t.name, t.shape) for t in inputs]
        shapes = [_sizes(node.meta["val"].shape) for node in _results(program)]
        expected = [_sizes(tensor.shape) for tensor in outputs]
        return [
            *mismatch("input", found, wanted),
            *mismatch("output", shapes, expected),
        ]


def save_program(network: "Network", path: Path, largest: int | None = None) -> "ExportedProgram":
    """Write, and give, the program of a network, for any batch or up to the `largest`, and without a pickle."""
    import torch

    ((_, tensor),) = network.plan.only.inputs
    with torch.no_grad():
        program = torch.export.export(
            network.eval(),
            # With a batch of 1 the exporter would take the dimension for a constant. PyTorch chooses between ways to
            # convolve by it, at 16, and takes the range that the example is in for the one that is meant.
            (torch.zeros(largest or 2, *tensor.shape),),
            dynamic_shapes=(({0: torch.export.Dim("batch", min=1, max=largest)},),),
        )
    # They are what torch.export would write as a pickle.
    program.example_inputs = None
    torch.export.save(program, path)
    return program


def _load(path: Path) -> "ExportedProgram":
    """The program; raises `ValueError` for a file with anything that would be read as a pickle."""
    import torch

    with ZipFile(path) as archive:
        suspicious = sorted(_suspicious(archive))
    if suspicious:
        raise ValueError(f"it holds a pickle, {suspicious[0]}")
    # By its content, so that PyTorch does not mind how the file is called.
    with path.open("rb") as file:
        return torch.export.load(file)


def _suspicious(archive: ZipFile) -> Iterator[str]:
    for entry in archive.infolist():
        raw = _WEIGHTS in entry.filename and not entry.filename.endswith(".pt")
        if entry.file_size and not raw and not entry.filename.endswith(_PLAIN):
            yield entry.filename
        if entry.filename.endswith("_config.json") and b'"use_pickle": true' in archive.read(entry):
            yield entry.filename


def _inputs(program: "ExportedProgram") -> list[tuple[str, Any]]:
    nodes = {node.name: node for node in program.graph.nodes}
    user = program.graph_signature.user_inputs
    return [("input", nodes[str(name)].meta["val"].shape) for name in user]


def _results(program: "ExportedProgram") -> list[Any]:
    nodes = {node.name: node for node in program.graph.nodes}
    return [nodes[str(name)] for name in program.graph_signature.user_outputs]


def _text(name: str, shape: Sequence[Any]) -> str:
    return f"{name} {_sizes(shape)}"


def _sizes(shape: Sequence[Any]) -> str:
    return f"[{', '.join(str(size) if isinstance(size, int) else 'batch' for size in shape)}]"


_APART = f"from {__name__} import main; main()"
_LONGEST_S = 3600
_FOUND = TypeAdapter(tuple[tuple[ProgramTensor, ...], tuple[ProgramTensor, ...]])


class ExecuTorchFormat(Interchange):
    """A program for up to 32 images in a call, or as many as the device's batch: memory is planned for the most."""

    suffixes = (".pte",)
    precisions: tuple[Precision, ...] = ("fp32",)

    def runtime(self, device: Device) -> str:
        """Return ExecuTorch."""
        return "executorch"

    def recipe(self, device: Device) -> str:
        """Return that of its ONNX model: it is not quantised itself."""
        return "onnxruntime"

    def largest_batch(self, device: Device) -> int:
        """Return what memory is planned for."""
        return max(device.batch, LARGEST_BATCH)

    def missing(self) -> str | None:
        """Return the command that installs it, or None."""
        return lacking("executorch", "executorch", "1.5")

    def write(self, source: Source, path: Path) -> None:
        """Convert, which takes half a minute; raises `UserError` for a network that ExecuTorch refuses."""
        largest = self.largest_batch(source.device)
        with TemporaryDirectory() as folder:
            program = Path(folder, "network.pt2")
            save_program(source.network, program, largest)
            done = _apart("convert", program, path)
        if done.returncode:
            why = why_ended(done, "ExecuTorch: ")
            raise UserError(f"format executorch: ExecuTorch refuses the network ({why}); use another format")

    def inspect(self, path: Path, inputs: Sequence[TensorFacts], outputs: Sequence[TensorFacts]) -> list[str]:
        """Return what its header says of its size, whether it runs, and inputs and outputs that are not as they should
        be."""
        try:
            check_program(path.read_bytes())
        except ValueError as error:
            return [f"header: {error}"]
        done = _apart("describe", path)
        try:
            given, results = _FOUND.validate_json(done.stdout.splitlines()[-1] if done.stdout else "")
        except ValidationError:
            return [why_ended(done, "ExecuTorch: ")]
        found = [*_differing("input", given, inputs), *_differing("output", results, outputs)]
        return found or ([why_ended(done, "ExecuTorch: ")] if done.returncode else [])


def _apart(*words: object) -> "subprocess.CompletedProcess[str]":
    return run_apart("-c", _APART, *words, longest_s=_LONGEST_S)


def _differing(kind: str, found: Sequence[ProgramTensor], expected: Sequence[TensorFacts]) -> list[str]:
    shown, wanted = ([_planned(each.dtype, each.shape) for each in side] for side in (found, expected))
    return mismatch(kind, shown, wanted)


def _planned(kind: str, shape: Sequence[int | str]) -> str:
    """Return a tensor in words: a program has no names, and of its batch says the largest."""
    first, *rest = shape
    batch = first if isinstance(first, int) and first < LARGEST_BATCH else "batch"
    return f"{kind} [{', '.join(map(str, (batch, *rest)))}]"


def convert(program: Path, path: Path) -> None:
    """Hand to XNNPACK whatever it takes; the rest is run by ExecuTorch's portable kernels."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    with program.open("rb") as file:
        exported = torch.export.load(file)
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)


def describe(path: Path) -> None:
    """Print what a program takes and gives, then run it: the description is out even if that ends the process."""
    session = ExecuTorch().open(path, LocalTarget("here", "executorch"))
    print(json.dumps([[asdict(each) for each in side] for side in (session.given, session.results)]), flush=True)
    session.call()


def main() -> None:
    """Do, in a process of its own, what its arguments say; the last line of its errors says what went wrong."""
    command, *files = sys.argv[1:]
    try:
        convert(*map(Path, files)) if command == "convert" else describe(*map(Path, files))
    except UserError as error:
        sys.exit(str(error))
    # The exporter and the runtime raise whatever they like; the last line is what is read.
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {one_line(error)}")
