"""ExecuTorch: a program for its XNNPACK backend, which runs on phones and boards, in a `.pte` file.

It is converted and tried in processes of their own: conversion logs and warns a good deal, and a damaged file may end
the process that runs it. Such a process is told `convert FILE.pt2 FILE.pte`, or `describe FILE.pte`, which prints the
program's inputs and outputs as JSON and then runs it.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import TypeAdapter, ValidationError

from nasdeploy.core.errors import UserError, one_line
from nasdeploy.exporting.formats.format import Interchange, Source, lacking, mismatch
from nasdeploy.exporting.formats.torch import save_program
from nasdeploy.exporting.manifest import TensorFacts
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.executorch import ExecuTorch, ProgramTensor, check_program
from nasdeploy.runtimes.runtime import LARGEST_BATCH, LocalTarget, Precision

_APART = f"from {__name__} import main; main()"
_LONGEST_S = 3600
_FOUND = TypeAdapter(tuple[tuple[ProgramTensor, ...], tuple[ProgramTensor, ...]])


class ExecuTorchFormat(Interchange):
    """A program for up to 32 images in a call, or as many as the device's batch: memory is planned for the most."""

    suffixes = (".pte",)
    precisions: tuple[Precision, ...] = ("fp32",)

    def runtime(self, device: Device) -> str:
        """ExecuTorch."""
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
            raise UserError(f"format executorch: ExecuTorch refuses the network ({_last(done)}); use another format")

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
            return [_last(done)]
        found = [*_differing("input", given, inputs), *_differing("output", results, outputs)]
        return found or ([_last(done)] if done.returncode else [])


def _apart(*arguments: Any) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-P", "-c", _APART, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=_LONGEST_S)


def _last(done: "subprocess.CompletedProcess[str]") -> str:
    """Return what a process says at its end, or how it ended."""
    if done.returncode < 0:
        return f"ExecuTorch: the process that ran it ended by signal {-done.returncode}"
    lines = done.stderr.splitlines()
    return one_line(lines[-1]) if lines else f"exit code {done.returncode}"


def _differing(kind: str, found: Sequence[ProgramTensor], expected: Sequence[TensorFacts]) -> list[str]:
    shown, wanted = ([_text(each.dtype, each.shape) for each in side] for side in (found, expected))
    return mismatch(kind, shown, wanted)


def _text(kind: str, shape: Sequence[int | str]) -> str:
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
    """Also if it then fails, or ends the process, the description is out."""
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
