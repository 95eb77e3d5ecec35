"""MNN files, converted from ONNX in a process beside this one: 10 ms for a megabyte of weights.

The converter is the extension `_tools` of MNN's package. It is imported without `MNN.tools`, the Python modules around
it, which install a package by pip when they are imported and report each conversion to a server.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from nasdeploy.core.errors import ConversionRefused, UserError, one_line
from nasdeploy.runtimes.mnn_file import FlatTable
from nasdeploy.runtimes.runtime import Model, Target

if TYPE_CHECKING:
    from nasdeploy.convert.measured import MeasuredModule

_HALF = "fp16"
_NUMBER = 11
"""The place of a file's number, `Net.mnn_uuid`, in MNN's schema."""
_CRASHED = "its converter crashes"
_UNKNOWN = re.compile(r"Op Not Support: (.+)")
_MEMORY = {"GLIBC_TUNABLES": f"glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold={sys.maxsize}"}
"""Weights are copied several times. Memory that is kept for the next model saves a fifth of the converter's time."""
# Not what lies beside the program: a file of this package is called onnx.py.
_COMMAND = (sys.executable, "-P", str(Path(__file__).with_name("mnn_program.py")))


def to_mnn(model: bytes, *, half: bool) -> bytes:
    """Return an ONNX model as a `.mnn` file, `half`: with weights in fp16. Its inputs and outputs are in fp32.

    Equal models give equal bytes. Raises `ConversionRefused` for what MNN does not convert.
    """
    (found,) = to_mnn_each([model], half=half)
    if isinstance(found, ConversionRefused):
        raise found
    return found


def to_mnn_each(models: Iterable[bytes], *, half: bool) -> list[bytes | ConversionRefused]:
    """Return each of these ONNX models as `to_mnn` does, or why MNN does not convert it.

    Each is converted while the next one is made. Raises `UserError` if the converter cannot be started.
    """
    with TemporaryDirectory(prefix="nasdeploy-mnn-") as folder:
        jobs = _started(_jobs(models, Path(folder), half), half)
        while left := [job for job in jobs if not job.ended.exists()]:
            # The converter crashed: in the first of them.
            if not left[0].begun.exists():
                raise UserError("MNN's converter cannot be started; install MNN again: pip install --force MNN")
            left[0].made.unlink(missing_ok=True)
            left[0].ended.write_text(_CRASHED)
            _started(left[1:], half)
        return [job.outcome() for job in jobs]


@dataclass(frozen=True)
class _Job:
    """The files of one conversion."""

    source: Path

    @property
    def made(self) -> Path:
        return self.source.with_suffix(".mnn")

    @property
    def begun(self) -> Path:
        """What the converter prints, while it converts; it stays where the converter crashed."""
        return self.source.with_suffix(".begun")

    @property
    def ended(self) -> Path:
        """What the converter printed."""
        return self.source.with_suffix(".ended")

    def line(self, half: bool) -> str:
        """Return what the program is told."""
        options = {"modelFile": str(self.source), "MNNModel": str(self.made), "bizCode": "nasdeploy"}
        words = ["mnnconvert", "-f", "ONNX", *(word for name in options for word in (f"--{name}", options[name]))]
        return json.dumps([str(self.source), str(self.begun), str(self.ended), words + [f"--{_HALF}"] * half]) + "\n"

    def outcome(self) -> bytes | ConversionRefused:
        """Return the file, or why there is none."""
        if not self.made.is_file():
            said = self.ended.read_text(errors="replace").replace(str(self.source), "it")
            return ConversionRefused(f"MNN does not convert it ({_reason(said)})")
        content = self.made.read_bytes()
        # It numbers its files by chance.
        number = FlatTable.root(content).string(_NUMBER).encode()
        return content.replace(number, b"0" * len(number), 1) if number else content


def _jobs(models: Iterable[bytes], folder: Path, half: bool) -> Iterator[_Job]:
    for number, model in enumerate(models):
        job = _Job(folder / f"{number}.onnx")
        job.source.write_bytes(_rounded(model) if half else model)
        yield job


def _started(jobs: Iterable[_Job], half: bool) -> list[_Job]:
    """Return the jobs when the program has ended, with all of them or by a crash."""
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        _COMMAND, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, text=True, env={**os.environ, **_MEMORY}
    ) as program:
        assert program.stdin is not None
        given = []
        for job in jobs:
            given.append(job)
            with suppress(BrokenPipeError):
                program.stdin.write(job.line(half))
                program.stdin.flush()
        with suppress(BrokenPipeError):
            program.stdin.close()
    return given


def _rounded(model: bytes) -> bytes:
    """Return a model whose weights are numbers of fp16 already.

    MNN cuts digits off where others round, and so makes all weights smaller: over the 80 layers of AlphaNet's a0 that
    moved logits by 1.8 % of their spread, against 0.1 %.
    """
    loaded = onnx.load_from_string(model)
    for tensor in loaded.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1:
            values = numpy_helper.to_array(tensor).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    content: bytes = loaded.SerializeToString(deterministic=True)
    return content


def _reason(said: str) -> str:
    """Return what the converter says of an operator that it lacks, else of the first thing that went wrong."""
    if said == _CRASHED:
        return said
    unknown = _UNKNOWN.search(said)
    if unknown is not None:
        return f"it has no operator {one_line(unknown[1]).removeprefix('ONNX::')}"
    lines = [line for line in said.splitlines() if "Check failed" in line or "[ERROR]" in line]
    return one_line(lines[0]) if lines else "it says no more"


class MnnConverter:
    """MNN's files. What is measured in fp16 takes and gives fp32, single blocks too, which costs them copies."""

    together = 32

    def convert(self, modules: Iterable["MeasuredModule"], device: Target) -> list[Model | ConversionRefused]:
        """Return `.mnn` files."""
        return [*to_mnn_each((each.onnx(device.batch) for each in modules), half=device.precision == "fp16")]
