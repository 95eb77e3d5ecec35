"""What an export format is. Torch-free, as all files of this package: what they need is imported when it is used."""

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from nasdeploy.core.errors import one_line
from nasdeploy.exporting.manifest import TensorFacts
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.device import Device
from nasdeploy.runtimes.runtime import Model, Precision, Session, content_of, numbers

if TYPE_CHECKING:
    from nasdeploy.nn.network import Network

STEM = "model"
"""What the names of the files of a network of one part begin with."""


@dataclass(frozen=True)
class Source:
    """What a file is made from: a network in evaluation mode on the CPU, and its ONNX model."""

    network: "Network"
    onnx: Callable[[Precision], bytes]
    """The network as ONNX in a precision, quantised for the runtime that the file is for; made when it is asked for."""
    precision: Precision
    """The precision that the file is to have."""
    device: Device
    """The device that the file is for."""
    capabilities: tuple[str, ...] = ()
    """The compute capabilities of other GPUs than the one that is here, e.g. `SM86`."""
    tflite_int8: Callable[[int], bytes] | None = None
    """The network for LiteRT in int8, for so many images in a call; None where nothing is in int8."""


@dataclass(frozen=True)
class ServerBackend:
    """What of Triton runs the files of a format."""

    line: str
    """The line of the server's configuration that names it."""
    files: Mapping[str, str]
    """The names that it looks for, by suffix."""
    on_gpu: bool = False
    """Whether it runs on GPUs only."""


@dataclass(frozen=True)
class ExampleProgram:
    """A program in C++ that runs the files of a format where there is no Python."""

    source: str
    """The name of its file, in `nasdeploy.exporting.bundle` and in a bundle."""
    command: str
    """The command that compiles it."""
    needs: str
    """What has to be installed before, and how, in words."""


class Format(Protocol):
    """One kind of model file: all that is known of it, from how it is written to what runs it."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """The ends of the names of its files, which have one stem; the first file is the one that is opened."""

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """The precisions that it can hold, for a runtime that can run it."""

    @property
    def mixes(self) -> bool:
        """Whether operators of a file in fp16 may stay in fp32."""

    @property
    def ahead_of_time(self) -> bool:
        """Whether it can be made for GPUs that are not here."""

    @property
    def holds_parts(self) -> bool:
        """Whether the parts of a network of several can be files of it."""

    @property
    def fixes_batch(self) -> bool:
        """Whether a file takes as many images in a call as it was made for, no more and no fewer."""

    @property
    def embeds(self) -> bool:
        """Whether preprocessing can be put into its file."""

    @property
    def package(self) -> str | None:
        """The package by which a bundle's `predict.py` runs it; None where that cannot."""

    @property
    def example(self) -> ExampleProgram | None:
        """The program in C++ that a bundle has beside its `predict.py`; None where there is none."""

    @property
    def backend(self) -> ServerBackend | None:
        """What of Triton serves it; None where nothing does."""

    @property
    def tied(self) -> bool:
        """Whether its file loads only on GPUs of one kind, in the version that wrote it."""

    @property
    def rebuilds_with(self) -> str | None:
        """The module by which a bundle's `rebuild.py` builds its file again; None where that cannot."""

    def runtime(self, device: Device) -> str:
        """Return the name of the runtime, a key of `RUNTIMES`, that runs the file where `device` is the target."""

    def recipe(self, device: Device) -> str:
        """Return how int8 is to be written for that runtime: a key of `convert.quantise.RECIPES`, or `litert`."""

    def largest_batch(self, device: Device) -> int | None:
        """Return how many samples a call may hold where `device` is the target; None for any number from 1 on."""

    def missing(self) -> str | None:
        """Return what has to be installed to write it, as a command; None if nothing. Imports nothing."""

    def obstacle(self) -> str | None:
        """Return what else keeps it from being made on this machine, with what to do; None if nothing."""

    def not_run(self, capabilities: Sequence[str]) -> str | None:
        """Return why a file for these compute capabilities cannot run on this machine; None if it can."""

    def write(self, source: Source, path: Path) -> None:
        """Write the network to `path` and files of the same stem; raises `UserError` for what the format refuses."""

    def inspect(self, path: Path, inputs: Sequence[TensorFacts], outputs: Sequence[TensorFacts]) -> list[str]:
        """Return what is wrong with a file without running it, a line each: its form, or its inputs and outputs."""

    def open(self, path: Path, device: Device) -> Session:
        """Open the file in its runtime, on this machine; raises `UserError` if that cannot load it."""


def file_name(form: Format, precision: Precision, stem: str = STEM) -> str:
    """Return the name of the file that is opened, e.g. `model.onnx` or `model.int8.onnx`."""
    return stem + ("" if precision == "fp32" else f".{precision}") + form.suffixes[0]


def files_of(form: Format, path: Path) -> list[Path]:
    """Return all files of the model that is opened by `path`."""
    stem = path.name.removesuffix(form.suffixes[0])
    return [path.with_name(stem + suffix) for suffix in form.suffixes]


def mismatch(kind: str, found: Sequence[str], expected: Sequence[str]) -> list[str]:
    """Return a line if a file's inputs or outputs (`kind`), each in words, are not those expected."""
    if list(found) == list(expected):
        return []
    return [f"{kind}: {', '.join(found) or 'none'}; expected {', '.join(expected)}"]


def run_apart(*words: object, longest_s: float = 600.0) -> "subprocess.CompletedProcess[str]":
    """Run this Python with these words in a process of its own, which a damaged file may end, for so long at most."""
    # Not what lies in the current directory: a user's file may be called numpy.py.
    command = [sys.executable, "-P", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=longest_s)


def why_ended(done: "subprocess.CompletedProcess[str]", prefix: str = "") -> str:
    """Return the last line that such a process said, or how it ended, after `prefix`, if it said nothing."""
    if done.returncode < 0:
        return f"{prefix}the process that ran it ended by signal {-done.returncode}"
    lines = done.stderr.splitlines()
    return one_line(lines[-1]) if lines else f"{prefix}exit code {done.returncode}"


class Interchange:
    """What formats have in common that every machine can write and run."""

    suffixes: tuple[str, ...]
    mixes = False
    ahead_of_time = False
    holds_parts = False
    fixes_batch = False
    embeds = False
    package: str | None = None
    example: ExampleProgram | None = None
    backend: ServerBackend | None = None
    tied = False
    rebuilds_with: str | None = None

    def largest_batch(self, device: Device) -> int | None:
        """Return None: memory is found when it is called."""
        return None

    def open(self, path: Path, device: Device) -> Session:
        """Open the file in the device's runtime."""
        return runtime_of(device).open(path, device)

    def model_in(self, path: Path) -> Model:
        """Return a file as its runtime opens it: in one piece where it can be, as processes and boards are sent it.

        Raises `UserError` for a file that cannot be read.
        """
        return content_of(path)[1] if len(self.suffixes) == 1 else path

    def missing(self) -> str | None:
        """Return None: what nasdeploy itself needs is enough."""
        return None

    def obstacle(self) -> str | None:
        """Return None: there is no obstacle."""
        return None

    def not_run(self, capabilities: Sequence[str]) -> str | None:
        """Return None: it runs here."""
        return None


def lacking(module: str, package: str, at_least: str) -> str | None:
    """Return the command that installs `package`, of that module, in a version that will do; None if it is there."""
    if not find_spec(module):
        return f"pip install {package}"
    try:
        installed = version(package)
    except PackageNotFoundError:
        # As the system's own packages are.
        return None
    return None if numbers(installed) >= numbers(at_least) else f"pip install '{package}>={at_least}'"
