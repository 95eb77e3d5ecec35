"""The header of an engine of TensorRT for RTX, which can be read without a GPU.

The layout is not documented; it is that of engines built by versions 1.6 and 1.7, and a test builds one for each
compute capability. Little-endian: `vtrt`, at 16 the size of the file in 8 bytes, at 24 three bytes of version, at 28
`vtrt` again, at 32 a bit mask of compute capabilities.
"""

from dataclasses import dataclass

MAGIC = b"vtrt"
_LENGTH = 36
_CAPABILITIES = ("SM75", "SM80", "SM86", "SM89", "SM120", "SM121")
"""The names by bit, the lowest first."""


@dataclass(frozen=True)
class EngineHeader:
    """What an engine says of itself."""

    version: str
    """The version of the SDK that built it, which is the only one that loads it, e.g. `1.7.1`."""
    capabilities: tuple[str, ...]
    """The compute capabilities that it is for; empty where it is only for the GPU that it was built on."""


def read_header(content: bytes) -> EngineHeader:
    """Read the header of an engine; raises `ValueError`, in words, for what is none, or is not whole."""
    if len(content) < _LENGTH or not content.startswith(MAGIC) or content[28:32] != MAGIC:
        raise ValueError("it does not begin as an engine does")
    size = int.from_bytes(content[16:24], "little")
    if size != len(content):
        raise ValueError(f"it has {len(content)} bytes, and its header says {size}")
    mask = int.from_bytes(content[32:36], "little")
    if mask >> len(_CAPABILITIES):
        raise ValueError(f"it is for compute capabilities that are not known (mask {mask:#x})")
    names = tuple(name for bit, name in enumerate(_CAPABILITIES) if mask >> bit & 1)
    return EngineHeader(".".join(str(part) for part in content[24:27]), names)
