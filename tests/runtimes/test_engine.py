"""Headers of engines against what engines were built for."""

import pytest

from nasdeploy.runtimes.engine import read_header
from tests.conformance.runtime_models import relu_of
from tests.runtimes.test_tensorrt import DEVICE, RTX, needs_rtx


@needs_rtx
def test_the_header_names_every_capability_that_the_sdk_knows() -> None:
    from importlib.metadata import version

    known = RTX.capabilities()
    assert "SM86" in known
    for capability in known:
        header = read_header(RTX.build(relu_of("onnx", 1, 4), DEVICE, [capability]))
        assert header.capabilities == (capability,)
        assert version("tensorrt-rtx-cu13").startswith(header.version)
    some = ("SM86", "SM89", "SM120")
    assert read_header(RTX.build(relu_of("onnx", 1, 4), DEVICE, some)).capabilities == some


def header(size: int, mask: int, magic: bytes = b"vtrt") -> bytes:
    start = magic + bytes(12) + size.to_bytes(8, "little") + bytes([1, 7, 1, 0])
    return (start + magic + mask.to_bytes(4, "little")).ljust(40, b"\0")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not begin as an engine"),
        (b"vtrt", "does not begin as an engine"),
        (header(40, 4, b"ftrt"), "does not begin as an engine"),
        (header(41, 4), "it has 40 bytes, and its header says 41"),
        (header(40, 1 << 9), "compute capabilities that are not known \\(mask 0x200\\)"),
    ],
)
def test_what_is_no_engine_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_header(content)
