"""Packs that mean harm, or are none, generated."""

import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from typing import Any

BLOCK = tarfile.BLOCKSIZE


def padded(content: bytes) -> bytes:
    """The bytes of an entry, up to the next block."""
    return content + bytes(-len(content) % BLOCK)


def header(name: str, size: int, **fields: Any) -> bytes:
    """The header of an entry, with other fields."""
    entry = tarfile.TarInfo(name)
    entry.size = size
    for field, value in fields.items():
        setattr(entry, field, value)
    try:
        return entry.tobuf(tarfile.USTAR_FORMAT)
    except ValueError:
        return entry.tobuf(tarfile.GNU_FORMAT)


def listing_of(files: Mapping[str, bytes], name: str = "x") -> dict[str, Any]:
    """What a pack says of its files."""
    entries = [{"path": p, "bytes": len(c), "sha256": sha256(c).hexdigest()} for p, c in files.items()]
    return {"format": "nasdeploy-pack", "schema_version": 1, "nasdeploy": "0.1.0", "name": name, "files": entries}


def joined(listing: bytes, files: Mapping[str, bytes]) -> bytes:
    """The bytes of a pack with a listing that may say anything."""
    entries = b"".join(header(path, len(content)) + padded(content) for path, content in files.items())
    return header("pack.json", len(listing)) + padded(listing) + entries + bytes(2 * BLOCK)


def packed(files: Mapping[str, bytes], name: str = "x") -> bytes:
    """The bytes of a pack, as they should be."""
    return joined(json.dumps(listing_of(files, name)).encode(), files)


def changed(files: Mapping[str, bytes], change: Callable[[dict[str, Any]], object]) -> bytes:
    """A pack whose listing says something else than it should."""
    listing = listing_of(files)
    change(listing)
    return joined(json.dumps(listing).encode(), files)


PATHS = (
    *("../out", "run/../../out", "/etc/cron.d/x", "run//a", "run/", "", ".", "..", ".hidden", "run/.ssh/config", "C:a"),
    *("run\\a", "run/a\n", "run/\x00a", "run/\u202ea", "run/a.", "~/a", "run/" + "a" * 300, "a/" * 200 + "b"),
    *("run/checkpoints/epoch-000001.pt", "run/weights.pkl", "run/supernet.pt", "run/export/x/predict.py", "evil.py"),
    *("run/networks/original-0/weights.pt", "run/data.npz/a", "run/.lock", "tables/../a.json", "tables/A.JSON"),
)
"""Places that nothing may be written to, and files that no run has."""

LISTINGS: dict[str, Callable[[dict[str, Any]], object]] = {
    "version": lambda listing: listing.update(schema_version=99),
    "version-of-text": lambda listing: listing.update(schema_version="1"),
    "another-format": lambda listing: listing.update(format="docker"),
    "another-key": lambda listing: listing.update(run="x"),
    "no-files": lambda listing: listing.pop("files"),
    "empty": lambda listing: listing.update(files=[]),
    "larger": lambda listing: listing["files"][0].update(bytes=2**32),
    "huge": lambda listing: listing["files"][0].update(bytes=2**80),
    "negative": lambda listing: listing["files"][0].update(bytes=-1),
    "smaller": lambda listing: listing["files"][0].update(bytes=1),
    "text-for-size": lambda listing: listing["files"][0].update(bytes="9"),
    "part-of-a-byte": lambda listing: listing["files"][0].update(bytes=1.5),
    "another-sum": lambda listing: listing["files"][0].update(sha256="0" * 64),
    "no-sum": lambda listing: listing["files"][0].update(sha256=""),
    "link": lambda listing: listing["files"][0].update(link="/etc/passwd"),
    "twice": lambda listing: listing["files"].append(listing["files"][0]),
    "one-missing": lambda listing: listing["files"].pop(),
    "name-outside": lambda listing: listing.update(name="../../x"),
    "name-of-lines": lambda listing: listing.update(name="a\nb" * 5000),
    "name-hidden": lambda listing: listing.update(name=".x"),
    "name-of-nothing": lambda listing: listing.update(name=""),
    "many": lambda listing: listing.update(files=[{"path": f"run/{n}"} for n in range(20_000)]),
}

BARE: dict[str, bytes] = {
    "nothing": b"",
    "zeros": bytes(4096),
    "text": b"hello\n" * 400,
    "zip": b"PK\x03\x04" + bytes(2000),
    "pickle": b"\x80\x02cos\nsystem\n(X\x04\0\0\0truetR." + bytes(1000),
    "short": b"\x80" * 100,
    "deep": joined(b"[" * 100_000, {}),
    "lists": joined(b"[" + b"[]," * 300_000 + b"[]]", {}),
    "long-listing": joined(b" " * (2 << 20) + b"{}", {}),
    "list": joined(b"[1, 2]", {}),
    "not-json": joined(b"{'a': 1}", {}),
    "infinite": joined(b'{"schema_version": 1e999}', {}),
    "surrogate": joined(b'{"schema_version": 1, "name": "\\ud800", "files": []}', {}),
    "claims-more": header("pack.json", 2**33) + bytes(1024),
    "claims-all": header("pack.json", 2**60) + bytes(1024),
    "long-name": header("a" * 5000, 10) + bytes(1024),
    "fifo": header("pack.json", 0, type=tarfile.FIFOTYPE) + bytes(1024),
    "device": header("pack.json", 0, type=tarfile.CHRTYPE, devmajor=1, devminor=5) + bytes(1024),
    "sparse": header("pack.json", 0, type=tarfile.GNUTYPE_SPARSE) + bytes(1024),
    "pax": header("pack.json", 2**32, type=tarfile.XHDTYPE) + bytes(1024),
}


def containers(files: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """Containers that are wrong, by a name each; `files` are those of a run that is right."""
    yield from BARE.items()
    for number, path in enumerate(PATHS):
        yield f"path-{number}", joined(json.dumps(listing_of({**files, path: b"x"})).encode(), {**files, "x": b"x"})
    for name, change in LISTINGS.items():
        yield name, changed(files, change)
    whole = packed(files)
    for part in (0.01, 0.3, 0.7, 0.999):
        yield f"cut-at-{part}", whole[: int(len(whole) * part)]
    yield "longer", whole + bytes(BLOCK)
    yield "more-behind", whole[:-BLOCK] + b"x" * BLOCK
    listing = json.dumps(listing_of(files)).encode()
    first = next(iter(files))
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE):
        entry = header(first, len(files[first]), type=kind, linkname="/etc/passwd")
        yield f"entry-of-type-{kind.decode()}", whole.replace(header(first, len(files[first])), entry[:BLOCK])
    yield "no-run", packed({"tables/cpu.json": b"{}"})
    yield (
        "upper-case",
        joined(json.dumps(listing_of({**files, "run/DATA.npz": b""})).encode(), {**files, "run/DATA.npz": b""}),
    )
    yield "listing-twice", header("pack.json", len(listing)) + padded(listing) + whole
