"""Files of safetensors: written by Python, so that a full disk is told, and read within the bounds of what is there.

The format is a JSON header, which says where the bytes of each tensor are, and these bytes. The library compares what
the header claims with the file before it reads any of it; how long a header may be is said here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nasdeploy.core.errors import one_line
from nasdeploy.supernet.archives import UnreadableArchive

LARGEST_HEADER = 8 << 20
"""The most bytes of a header: that of a network of 1000 tensors has 150 kB."""


@dataclass(frozen=True)
class TensorFile:
    """The content of a file of safetensors."""

    tensors: dict[str, Tensor]
    metadata: Mapping[str, str]
    """What the file says beside its tensors, by key."""


def read_tensors(path: Path) -> TensorFile:
    """Return what a file of safetensors holds; raises `UnreadableArchive` for one that claims what is not there.

    Raises `OSError` where it cannot be read.
    """
    _require_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            return TensorFile({name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {})  # noqa: SIM118
    except (
        SafetensorError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise UnreadableArchive(f"damaged, or no safetensors ({one_line(error)})") from None


def _require_header(path: Path) -> None:
    """Raise `UnreadableArchive` for a file without a header, or with one that takes memory."""
    with path.open("rb") as file:
        length = int.from_bytes(begins, "little") if len(begins := file.read(8)) == 8 else -1
    if not 0 < length <= path.stat().st_size - 8:
        raise UnreadableArchive("damaged, or no safetensors (its header is not there)")
    if length > LARGEST_HEADER:
        raise UnreadableArchive(f"its header has more than {LARGEST_HEADER >> 20} MiB")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors by name, those of shared memory under each of their names; the same tensors give the same bytes."""
    path.write_bytes(save(_plain(tensors), None if metadata is None else dict(metadata)))


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies as a file holds them: safetensors takes neither channels-last tensors nor two names of one
    memory."""
    return {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, kinds of numbers, shapes and values, whatever their order."""
    found = sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        found.update(f"{name!r} {value.dtype} {list(value.shape)};".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
