"""Formats of exported models by name. A new one is a file of this package and a line here."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from nasdeploy.export.manifest import TensorFacts
from nasdeploy.export.onnx import OnnxFormat
from nasdeploy.nn.network import Network


class Format(Protocol):
    """One kind of model file."""

    @property
    def file_name(self) -> str:
        """Name of the file in the export's directory."""

    def write(self, network: Network, path: Path) -> None:
        """Write the network, in evaluation mode, to `path`."""

    def inspect(self, path: Path, inputs: Sequence[TensorFacts], outputs: Sequence[TensorFacts]) -> list[str]:
        """What is wrong with a file without running it, one line each: its form, or its inputs and outputs."""


FORMATS: Mapping[str, Format] = {
    "onnx": OnnxFormat(),
}
