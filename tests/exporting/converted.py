"""Networks that many tests export are converted once in a run of the tests: PyTorch's exporter takes seconds for each.

That equal weights give equal bytes is tested where this is not in use: `tests/convert/test_onnx.py`, and the export of
one network twice in `test_export.py`.
"""

import os
from collections.abc import Iterator
from copy import copy
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from torch.onnx._internal.exporter._registration import ONNXRegistry

from nasdeploy.convert import to_onnx
from nasdeploy.exporting import conversions
from nasdeploy.nn.network import Network


def converted(folder: Path, network: Network, *part: Any) -> bytes:
    """`to_onnx`, or what it gave for the same blocks with the same weights and statistics, which `folder` keeps."""
    seen = sha256(repr((network.plan, part)).encode())
    for name, tensor in network.state_dict().items():
        seen.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        seen.update(tensor.contiguous().numpy().tobytes())
    path = folder / f"{seen.hexdigest()}.onnx"
    if not path.exists():
        made = path.with_suffix(f".{os.getpid()}")
        made.write_bytes(to_onnx(network, *part))
        made.rename(path)
    # The exporter leaves networks in evaluation mode.
    network.eval()
    return path.read_bytes()


_registry = cache(ONNXRegistry.from_torchlib)


def _registry_of(**opset_version: int) -> ONNXRegistry:
    """One to which an export may add operators of its own."""
    found = copy(_registry(**opset_version))
    found.functions = {name: [*each] for name, each in found.functions.items()}
    return found


@pytest.fixture(autouse=True, scope="module")
def functions_read_once() -> Iterator[None]:
    """The exporter reads the source of its 497 functions anew for each network: a quarter of a small one's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(_registry_of))
        yield


@pytest.fixture(autouse=True, scope="module")
def converted_once(functions_read_once: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    # Processes of pytest-xdist have directories of their own, side by side in that of all.
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "converted"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversions, "to_onnx", partial(converted, folder))
        yield
