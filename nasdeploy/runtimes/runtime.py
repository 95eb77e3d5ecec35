"""What a runtime is: something that opens an ONNX model for a device and runs it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from nasdeploy.plan import Shape
from nasdeploy.runtimes.device import Device

Array = npt.NDArray[Any]


class Session(Protocol):
    """An opened model."""

    @property
    def inputs(self) -> Mapping[str, Shape]:
        """Shapes by input name, with the device's batch in place of a dynamic batch dimension."""

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """The model's outputs, in its order, for one array per input (any batch if the model's is dynamic)."""

    def call(self) -> None:
        """One call on fixed random inputs of the device's batch, outputs left where they are: what is timed."""

    def close(self) -> None:
        """Give back the memory; the session cannot be used afterwards."""


class Runtime(Protocol):
    """One deployment runtime. Its own package is imported when a method is called, never before."""

    def missing(self) -> str | None:
        """What has to be installed for it, as a command; None if nothing."""

    def version(self) -> str:
        """Version of the runtime."""

    def open(self, model: bytes | Path, device: Device) -> Session:
        """The model, given as ONNX bytes or file, ready to run; raises `UserError` if the runtime refuses it."""
