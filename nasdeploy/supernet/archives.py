"""Files that `torch.save` writes, as names and tensors: opened without running anything, never larger than the file.

Since PyTorch 1.6 they are zip archives of a pickle and of one uncompressed entry for each storage; before, the pickle
was followed by the storages. A tensor is only read when it is asked for: a training script's dictionary holds several
times as much as the weights.
"""

import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import torch
from torch import Tensor

from nasdeploy.supernet.pickles import LARGEST, Call, Named, Stored, UnreadablePickle, described

_MOST_DIMENSIONS = 8
_DEEPEST = 32
"""The most collections inside one another: those of a checkpoint with its optimizer are six."""
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_DAMAGED = "it is damaged or cut off"
_UNLIKE_PYTORCH = "a tensor of it is described as PyTorch does not"


class UnreadableArchive(ValueError):
    """A file that is none of PyTorch's, damaged, or claims more than it holds; the message completes a sentence."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that has not been read yet: a view of a storage."""

    storage: "_Storage"
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class Storages(Protocol):
    """The storages of a file by name."""

    def read(self, wanted: Mapping[str, int]) -> dict[str, bytearray]:
        """Return storages by name, of so many bytes each; raises `UnreadableArchive` if the file has no such ones."""


@dataclass(frozen=True)
class Archive:
    """What a file holds, and where its storages are."""

    content: Any
    """Plain values, with a `Call` for each tensor."""
    storages: Storages

    def tensors(self, values: Mapping[str, Any]) -> dict[str, Tensor]:
        """Read the tensors among some values; raises `UnreadableArchive` for one that claims what is not there."""
        found = {name: stored for name, value in values.items() if (stored := stored_tensor(value)) is not None}
        storages = {stored.storage for stored in found.values()}
        wanted: dict[str, int] = {}
        for storage in storages:
            if wanted.setdefault(storage.name, storage.nbytes) != storage.nbytes:
                raise UnreadableArchive(f"storage {storage.name!r} has two sizes in it")
        raw = self.storages.read(wanted)
        flat = {storage: _flat(raw[storage.name], storage.dtype) for storage in storages}
        return {name: flat[t.storage].as_strided(t.size, t.stride, t.offset) for name, t in found.items()}

    def everything(self) -> Any:
        """Return all that it holds, with its tensors read; raises `UnreadableArchive` if some of it is not plain."""
        tensors = self.tensors({str(id(call)): call for call in _calls(self.content)})
        return _filled(self.content, tensors, {}, _DEEPEST)


def _calls(content: Any) -> Iterator[Call]:
    """Yield the calls in nested collections; one that is there several times, or holds itself, is gone through once."""
    left, seen = [content], set()
    while left:
        value = left.pop()
        if isinstance(value, Call):
            yield value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            left.extend(value.values() if isinstance(value, dict) else value)


def _filled(value: Any, tensors: Mapping[str, Tensor], known: dict[int, Any], levels: int) -> Any:
    """Return a value with tensors in place of their calls; `known` are collections that were made before."""
    if isinstance(value, Call | Named | Stored):
        if (tensor := tensors.get(str(id(value)))) is None:
            raise UnreadableArchive("it holds more than tensors and plain values")
        return tensor
    if not isinstance(value, dict | list | tuple):
        return value
    if not levels:
        raise UnreadableArchive(f"its collections are nested more than {_DEEPEST} times")
    if id(value) not in known:
        entries = value.values() if isinstance(value, dict) else value
        filled = [_filled(entry, tensors, known, levels - 1) for entry in entries]
        known[id(value)] = dict(zip(value, filled, strict=True)) if isinstance(value, dict) else type(value)(filled)
    return known[id(value)]


def _flat(raw: bytearray, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)


def stored_tensor(value: Any) -> StoredTensor | None:
    """Return the tensor that a value of an archive describes, None for anything else.

    Raises `UnreadableArchive` for one of an unknown kind, or larger than its storage.
    """
    if not isinstance(value, Call) or not value.function.name.startswith("_rebuild_"):
        return None
    if value.function.name.startswith("_rebuild_parameter"):
        return stored_tensor(value.arguments[0]) if value.arguments else None
    if value.function.name not in ("_rebuild_tensor", "_rebuild_tensor_v2"):
        raise UnreadableArchive(f"it holds tensors that are not plain ones ({value.function.name})")
    match value.arguments:
        case (Stored() as stored, int(offset), tuple(size), tuple(stride), *_):
            return _view(_storage(stored), offset, size, stride)
    raise UnreadableArchive(_UNLIKE_PYTORCH)


@dataclass(frozen=True)
class _Storage:
    name: str
    dtype: torch.dtype
    elements: int

    @property
    def nbytes(self) -> int:
        return self.elements * self.dtype.itemsize


def _storage(stored: Stored) -> _Storage:
    match stored.identity:
        case ("storage", Named() as kind, str(name), str(), int(elements), *_):
            if kind.name not in _DTYPES:
                raise UnreadableArchive(f"it holds numbers of an unknown kind ({kind.name})")
            return _Storage(name, _DTYPES[kind.name], elements)
    raise UnreadableArchive(_UNLIKE_PYTORCH)


def _view(storage: _Storage, offset: int, size: tuple[Any, ...], stride: tuple[Any, ...]) -> StoredTensor:
    """Return the view of a storage; raises `UnreadableArchive` unless it is inside, with each element at most once."""
    numbers = (storage.elements, offset, *size, *stride)
    if any(type(number) is not int or not 0 <= number < 1 << 48 for number in numbers):
        raise UnreadableArchive(_UNLIKE_PYTORCH)
    if len(size) != len(stride) or len(size) > _MOST_DIMENSIONS:
        raise UnreadableArchive(_UNLIKE_PYTORCH)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if prod(size) > storage.elements or (prod(size) and last >= storage.elements):
        raise UnreadableArchive(f"a tensor of it claims {prod(size)} numbers, and {storage.elements} are stored")
    return StoredTensor(storage, offset, size, stride)


_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def open_archive(path: Path) -> Archive:
    """Return what a file of `torch.save` holds; raises `UnreadableArchive` with what is wrong with it."""
    try:
        with path.open("rb") as file:
            begins = file.read(4)
        return _opened_zip(path) if begins == b"PK\x03\x04" else _opened_legacy(path)
    except UnreadablePickle as error:
        raise UnreadableArchive(str(error)) from None
    except (BadZipFile, EOFError, NotImplementedError, RuntimeError, LookupError, ValueError, zlib.error) as error:
        raise error if isinstance(error, UnreadableArchive) else UnreadableArchive(_DAMAGED) from None


# -- zip archives


@dataclass(frozen=True)
class _ZipStorages:
    path: Path
    folder: str

    def read(self, wanted: Mapping[str, int]) -> dict[str, bytearray]:
        try:
            with ZipFile(self.path) as archive:
                return {name: self._read(archive, name, nbytes) for name, nbytes in wanted.items()}
        except (BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error):
            raise UnreadableArchive(_DAMAGED) from None

    def _read(self, archive: ZipFile, name: str, nbytes: int) -> bytearray:
        try:
            entry = archive.getinfo(f"{self.folder}/data/{name}")
        except KeyError:
            raise UnreadableArchive(f"storage {name!r} is missing in it") from None
        if entry.file_size != nbytes:
            raise UnreadableArchive(f"a storage of it claims {nbytes} bytes, and {entry.file_size} are there")
        return bytearray(archive.read(entry))


def _opened_zip(path: Path) -> Archive:
    with ZipFile(path) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        if any(name.endswith("/constants.pkl") for name in names):
            raise UnreadableArchive("it is a program of TorchScript; save the state dict of the model instead")
        _require_honest(entries, path.stat().st_size)
        pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise UnreadableArchive("it is a zip archive, but not one of PyTorch")
        if pickles[0].file_size > LARGEST:
            raise UnreadableArchive(f"its pickle has more than {LARGEST >> 20} MiB")
        folder = pickles[0].filename.removesuffix("/data.pkl")
        if f"{folder}/byteorder" in names and archive.read(f"{folder}/byteorder") != b"little":
            raise UnreadableArchive("its numbers are big-endian; save it on another machine")
        return Archive(described(io.BytesIO(archive.read(pickles[0]))).value, _ZipStorages(path, folder))


def _require_honest(entries: list[ZipInfo], size: int) -> None:
    """Raise `UnreadableArchive` for entries that would become larger than the file that they are in."""
    for entry in entries:
        if entry.compress_type != ZIP_STORED or entry.flag_bits & 1:
            raise UnreadableArchive(f"its entry {entry.filename!r} is compressed or encrypted, as PyTorch's never are")
        if entry.file_size != entry.compress_size or entry.header_offset + entry.file_size > size:
            raise UnreadableArchive(f"its entry {entry.filename!r} claims {entry.file_size} bytes, more than are there")
    if sum(entry.file_size for entry in entries) > size or len({e.filename for e in entries}) < len(entries):
        raise UnreadableArchive("its entries claim the same bytes several times")


# -- before PyTorch 1.6


@dataclass(frozen=True)
class _LegacyStorages:
    path: Path
    places: Mapping[str, tuple[int, int]]
    """Where a storage begins, and its bytes."""

    def read(self, wanted: Mapping[str, int]) -> dict[str, bytearray]:
        found = {}
        with self.path.open("rb") as file:
            for name, nbytes in wanted.items():
                if self.places.get(name, (0, -1))[1] != nbytes:
                    raise UnreadableArchive(f"storage {name!r} is missing in it, or of another size than is claimed")
                file.seek(self.places[name][0])
                found[name] = bytearray(file.read(nbytes))
        return found


def _opened_legacy(path: Path) -> Archive:
    with path.open("rb") as file:
        pickles = io.BytesIO(file.read(LARGEST))
    if not pickles.getvalue().startswith(b"\x80") or described(pickles).value != _LEGACY_MAGIC:
        raise UnreadableArchive("it is no file of PyTorch")
    protocol, system, content, keys = (described(pickles) for _ in range(4))
    little_endian = isinstance(system.value, dict) and system.value.get("little_endian") is True
    if protocol.value != _LEGACY_PROTOCOL or not little_endian or not isinstance(keys.value, list):
        raise UnreadableArchive("it is of a version or machine that is not known")
    storages = {storage.name: storage for storage in map(_storage, content.stored)}
    return Archive(content.value, _LegacyStorages(path, _places(path, pickles.tell(), keys.value, storages)))


def _places(
    path: Path, start: int, names: Sequence[Any], storages: Mapping[str, _Storage]
) -> dict[str, tuple[int, int]]:
    """Return where the storages are that follow one another from `start` on, each behind its number of elements."""
    found, size = {}, path.stat().st_size
    with path.open("rb") as file:
        for name in names:
            if not isinstance(name, str) or name not in storages:
                raise UnreadableArchive("it holds storages that none of its tensors has")
            file.seek(start)
            storage, start = storages[name], start + 8
            if int.from_bytes(file.read(8), "little") != storage.elements or start + storage.nbytes > size:
                raise UnreadableArchive(f"a storage of it claims {storage.nbytes} bytes, and they are not there")
            found[name] = (start, storage.nbytes)
            start += storage.nbytes
    return found
