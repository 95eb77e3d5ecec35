"""Networks that many tests export are converted once in a test process: PyTorch's exporter takes seconds for each.

That equal weights give equal bytes is tested where this is not in use: `tests/convert/test_onnx.py`, and the export of
one network twice in `test_export.py`.
"""

from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from typing import Any

import pytest
from torch.onnx._internal.exporter._registration import onnxscript_apis

from nasdeploy.convert import to_onnx
from nasdeploy.exporting import conversions
from nasdeploy.nn.network import Network

_CONVERTED: dict[str, bytes] = {}


def converted(network: Network, *part: Any) -> bytes:
    """`to_onnx`, or what it gave for the same blocks with the same weights and statistics."""
    seen = sha256(repr((network.plan, part)).encode())
    for name, tensor in network.state_dict().items():
        seen.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        seen.update(tensor.contiguous().numpy().tobytes())
    key = seen.hexdigest()
    if key not in _CONVERTED:
        _CONVERTED[key] = to_onnx(network, *part)
    # The exporter leaves networks in evaluation mode.
    network.eval()
    return _CONVERTED[key]


_functions = cache(onnxscript_apis.get_torchlib_ops)


@pytest.fixture(autouse=True, scope="module")
def functions_read_once() -> Iterator[None]:
    """The exporter reads the source of its 497 functions anew for each network: a quarter of a small one's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxscript_apis, "get_torchlib_ops", _functions)
        yield


@pytest.fixture(autouse=True, scope="module")
def converted_once(functions_read_once: None) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversions, "to_onnx", converted)
        yield
