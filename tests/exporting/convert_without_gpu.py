"""Torch-TensorRT's own conversion and TensorRT for RTX's own builder, on a machine without a GPU or a driver.

    python -m tests.exporting.convert_without_gpu FOLDER

Writes a0 of the alphanet space, with random weights, in the format torch-tensorrt into FOLDER. Only what asks a driver
is replaced: three questions about the GPU, the compute capability that the builder takes from it, and loading the
engine that was built, of which nothing but its bytes is wanted. It is a process of its own because importing
torch_tensorrt makes `tensorrt_rtx` importable as `tensorrt` too.
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from nasdeploy.exporting.formats import FORMATS
from nasdeploy.exporting.formats.format import Source, file_name
from nasdeploy.runtimes.device import Device
from nasdeploy.spaces import load_space
from nasdeploy.supernet.evaluate import calibrate
from nasdeploy.supernet.supernet import extract
from tests.exporting.models import supernet_of

_MEMORY = 8 << 30


class Kept:
    """Takes the place of a loaded engine."""

    def __init__(self, content: Any) -> None:
        self._content = bytes(content)

    def serialize(self) -> bytes:
        return self._content

    def get_aliased_input_tensor(self, name: str) -> None:
        return None


def pretend() -> None:
    """A GPU of compute capability 8.6, for which engines are built and not loaded."""
    properties = SimpleNamespace(name="none", major=8, minor=6, total_memory=_MEMORY, multi_processor_count=1)
    torch.cuda.get_device_properties = lambda device=None: properties  # type: ignore[assignment, misc]
    torch.cuda.current_device = lambda: 0
    torch.cuda.mem_get_info = lambda device=None: (_MEMORY, _MEMORY)

    from torch_tensorrt.dynamo.conversion import _TRTInterpreter as interpreter

    trt = interpreter.trt
    configured = interpreter.TRTInterpreter._populate_trt_builder_config

    def with_capability(self: Any, *arguments: Any, **named: Any) -> Any:
        config = configured(self, *arguments, **named)
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM86, 0)
        return config

    interpreter.TRTInterpreter._populate_trt_builder_config = with_capability
    runtime = SimpleNamespace(deserialize_cuda_engine=Kept)
    trt.Runtime = lambda log: runtime


def main() -> None:
    pretend()
    space = load_space("alphanet", 1000)
    arch = space.named["a0"]
    network = extract(supernet_of(space), arch)
    torch.manual_seed(1)
    side = arch["resolution"]
    calibrate(network, [torch.randn(16, 3, side, side)]).eval()
    form = FORMATS["torch-tensorrt"]
    device = Device(name="gpu", runtime=form.runtime(Device(name="gpu", runtime="tensorrt")))

    def none(precision: str) -> bytes:
        raise AssertionError("it is converted from PyTorch")

    form.write(Source(network, none, "fp32", device), Path(sys.argv[1], file_name(form, "fp32")))


if __name__ == "__main__":
    main()
