"""Packs: several files in one, which is a tar archive that begins with a listing of their sizes and sums.

Any program that knows tar can look into one. Reading one goes by the listing alone: each entry has to be where the
listing puts it, of the size and with the content that it says, so that nothing else can be in it. What a path may be is
said here, and that links, devices and folders are none; what a file may hold is for those who know what it is.
"""

import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from pydantic import AfterValidator, Field

from nasdeploy import __version__
from nasdeploy.core.errors import UserError, one_line
from nasdeploy.core.progress import Work, counting
from nasdeploy.core.settings import Settings, parse
from nasdeploy.store.checkpoints import sum_of
from nasdeploy.store.files import replacing

SCHEMA_VERSION: Literal[1] = 1
_LISTING = "pack.json"
_LARGEST_LISTING = 1 << 20
"""The most bytes of a listing, which is read into memory: some 7000 files."""
_BLOCK = tarfile.BLOCKSIZE
_END = 2 * _BLOCK
"""The zeros that end a tar archive."""
_CHUNK = 1 << 20
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.+-]*"
_ANOTHER = "make it again with `nd.pack()`"


def _of_few_letters(path: str) -> str:
    if len(path) > 250 or any(part.endswith(".") for part in path.split("/")):
        raise ValueError("no path in a pack")
    return path


class PackedFile(Settings):
    """A file in a pack: its place below the directory that it is unpacked into, its size and its sum."""

    path: Annotated[str, Field(pattern=rf"^{_PART}(/{_PART})*$"), AfterValidator(_of_few_letters)]
    bytes: int = Field(ge=0, lt=1 << 33)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Listing(Settings):
    """What a pack says of itself, in its first entry."""

    format: Literal["nasdeploy-pack"] = "nasdeploy-pack"
    schema_version: Literal[1] = SCHEMA_VERSION
    nasdeploy: str = __version__
    """The version of nasdeploy that wrote it."""
    name: str
    """The name of what is packed."""
    files: tuple[PackedFile, ...]


@dataclass(frozen=True)
class Pack:
    """A pack whose listing was read and fits the size of the file."""

    path: Path
    listing: Listing
    begins: int
    """Where the entry of the first file begins, in bytes."""

    def extract(self, directory: Path) -> None:
        """Write all files below an empty directory; raises `UserError` for what is not as the listing says.

        Some of the files may be there then: the caller removes them.
        """
        work = counting("bytes", sum(each.bytes for each in self.listing.files))
        with _readable(self.path), self.path.open("rb") as file:
            file.seek(self.begins)
            for each in self.listing.files:
                _require_entry(file, each.path, each.bytes)
                place = directory / each.path
                place.parent.mkdir(parents=True, exist_ok=True)
                with place.open("xb") as out:
                    found = _copied(file, out, each.bytes, work)
                if found != each.sha256:
                    raise _Unreadable(f"{each.path} in it is damaged")
                _require_zeros(file, _padding(each.bytes))
            _require_zeros(file, _END)


class _Unreadable(ValueError):
    """A file that is no whole pack; the message completes a sentence."""


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (_Unreadable, tarfile.HeaderError) as error:
        raise UserError(f"{path}: no pack of nasdeploy, or damaged: {one_line(error)}; {_ANOTHER}") from None


def write_pack(path: Path, name: str, files: Mapping[str, Path]) -> Listing:
    """Write files by their places into a pack, whole or not at all; the same files give the same bytes.

    Raises `UserError` for what cannot be read or written, and for a file that changes meanwhile.
    """
    entries = [
        {"path": place, "bytes": source.stat().st_size, "sha256": sum_of(source)} for place, source in files.items()
    ]
    listing = parse(Listing, {"name": name, "files": entries}, str(path))
    content = json.dumps(listing.model_dump(), indent=1).encode()
    if len(content) > _LARGEST_LISTING:
        raise UserError(f"{path}: {len(files)} files are more than a pack can list; remove some")
    work = counting("bytes", sum(each.bytes for each in listing.files))
    with replacing(path) as partial, partial.open("wb") as out:
        _write_header(out, _LISTING, len(content))
        out.write(content + bytes(_padding(len(content))))
        for each in listing.files:
            source = files[each.path]
            _write_header(out, each.path, each.bytes)
            with source.open("rb") as file:
                try:
                    found = _copied(file, out, each.bytes, work)
                except _Unreadable:
                    found = None
                if found != each.sha256 or file.read(1):
                    raise UserError(f"{source}: changed while it was packed; run the same command again")
            out.write(bytes(_padding(each.bytes)))
        out.write(bytes(_END))
    return listing


def open_pack(path: Path) -> Pack:
    """Return the pack in a file, whose files were not read yet.

    Raises `UserError` if it is none, is damaged, or of another version.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give one that `nd.pack()` wrote")
    with _readable(path):
        size = path.stat().st_size
        with path.open("rb") as file:
            length = _require_entry(file, _LISTING, None)
            begins = _BLOCK + length + _padding(length)
            if length > min(_LARGEST_LISTING, size):
                raise _Unreadable("its listing is too long")
            content = file.read(length)
        listing = _listing(content, path)
        whole = begins + sum(_BLOCK + each.bytes + _padding(each.bytes) for each in listing.files) + _END
        if size != whole:
            raise _Unreadable(f"it has {size} bytes, and its listing tells of {whole}")
        _require_apart([each.path for each in listing.files])
    return Pack(path, listing, begins)


def _listing(content: bytes, path: Path) -> Listing:
    try:
        data: Any = json.loads(content)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise _Unreadable("its listing cannot be read")
    version = data.get("schema_version")
    if isinstance(version, int) and version != SCHEMA_VERSION:
        raise UserError(
            f"{path}: a pack in version {one_line(version)} of its form, written by nasdeploy "
            f"{one_line(data.get('nasdeploy'))}, and this nasdeploy reads version {SCHEMA_VERSION}; unpack it with that"
        )
    try:
        return parse(Listing, data, "its listing")
    except UserError as error:
        raise _Unreadable(str(error)) from None


def _require_apart(paths: list[str]) -> None:
    """Raise `_Unreadable` for a path that is there twice, also where letters' case is not told, or that is a folder of
    another."""
    folded = [path.casefold() for path in paths]
    folders = {path[:end] for path in folded for end in range(len(path)) if path[end] == "/"}
    if len(set(folded)) < len(folded) or folders & set(folded):
        raise _Unreadable("two of its files have one place")


# -- tar


def _padding(size: int) -> int:
    """Return how many zeros come after so many bytes."""
    return -size % _BLOCK


def _write_header(out: BinaryIO, name: str, size: int) -> None:
    header = tarfile.TarInfo(name)
    header.size = size
    try:
        out.write(header.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict"))
    except ValueError as error:
        raise UserError(f"{name}: cannot be packed ({error}); give it a shorter name") from None


def _require_entry(file: BinaryIO, name: str, size: int | None) -> int:
    """Return the size of the entry whose header comes next; raises unless it is a file of that name, and size if it is
    known."""
    try:
        header = tarfile.TarInfo.frombuf(file.read(_BLOCK), "ascii", "strict")
    except UnicodeDecodeError:
        raise _Unreadable("an entry has a name that none can have") from None
    if header.type != tarfile.REGTYPE or header.linkname or header.name != name or header.size < 0:
        raise _Unreadable(f"where {name} should be there is something else")
    if size not in (None, header.size):
        raise _Unreadable(f"{name} in it is of another size than is listed")
    return header.size


def _copied(file: BinaryIO, out: BinaryIO, size: int, work: Work) -> str:
    """Copy so many bytes, and return their sum."""
    found = sha256()
    while size:
        chunk = file.read(min(size, _CHUNK))
        if not chunk:
            raise _Unreadable("it is cut off")
        out.write(chunk)
        found.update(chunk)
        size -= len(chunk)
        work.advance(len(chunk))
    return found.hexdigest()


def _require_zeros(file: BinaryIO, count: int) -> None:
    if file.read(count) != bytes(count):
        raise _Unreadable("there is something between its entries")
