"""Packs of runs that are no runs, or do harm, generated from one that is right; and a process that unpacks them all."""

import io
import json
import pickle
import resource
import sqlite3
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as safe_bytes

from nasdeploy.core.errors import UserError
from nasdeploy.core.progress import Progress
from nasdeploy.workflows.unpack import unpack
from tests.importers.hostile_child import taken
from tests.store.hostile_packs import containers, packed

CANARY = "canary"
Files = dict[str, bytes]


class Malicious:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (CANARY, "w")


def files(content: Files) -> Iterator[tuple[str, bytes]]:
    """All packs by a name each; `content` is that of a run that is right."""
    yield from containers(content)
    for place, harms in HARMS.items():
        for number, harm in enumerate(harms):
            yield f"{place.rpartition('/')[2]}-{number}", packed({**content, place: harm(content.get(place, b""))})
    network = next(path for path in content if path.endswith("/weights.safetensors"))
    for name, harm in {"pickle": _pickled, "empty": _nothing, "cut": _cut}.items():
        yield f"network-{name}", packed({**content, network: harm(content[network])})
    for place in ("run/supernet.safetensors", "run/manifest.json", "run/data.npz"):
        yield f"without-{place.rpartition('/')[2]}", packed({p: c for p, c in content.items() if p != place})
    for name, weights in WEIGHTS.items():
        yield f"supernet-{name}", packed(_with_weights(content, weights(content["run/supernet.safetensors"])))
    (table,) = (path for path in content if path.startswith("tables/"))
    yield "table-of-another", packed({**content, f"tables/other{table.removeprefix('tables/cpu')}": content[table]})
    yield "table-edited", packed({**content, table: content[table].replace(b'"uncertainty": ', b'"uncertainty": 1')})


def _nothing(_: bytes) -> bytes:
    return b""


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _pickled(_: bytes) -> bytes:
    return pickle.dumps(Malicious())


def _manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def harm(content: bytes) -> bytes:
        manifest = json.loads(content)
        change(manifest)
        return json.dumps(manifest).encode()

    return harm


def _arrays(**arrays: Any) -> Callable[[bytes], bytes]:
    def harm(_: bytes) -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=True, **arrays)
        return buffer.getvalue()

    return harm


def _zipped(method: int, *entries: bytes) -> Callable[[bytes], bytes]:
    def harm(_: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", method) as archive:
            for number, entry in enumerate(entries):
                archive.writestr(f"{number}.npy", entry)
        return buffer.getvalue()

    return harm


def _claiming(shape: str, descr: str = "<f8") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n"


def _database(*statements: str) -> Callable[[bytes], bytes]:
    def harm(_: bytes) -> bytes:
        with TemporaryDirectory() as folder:
            connection = sqlite3.connect(Path(folder, "a"))
            for statement in statements:
                connection.execute(statement)
            connection.commit()
            connection.close()
            return Path(folder, "a").read_bytes()

    return harm


def _finished(**facts: Any) -> Callable[[bytes], bytes]:
    return _manifest(lambda manifest: manifest["finished"]["train"].update(facts))


HARMS: dict[str, list[Callable[[bytes], bytes]]] = {
    "run/manifest.json": [
        *(_nothing, _cut, _pickled, lambda _: b"[" * 100_000, lambda _: b"{}", lambda _: b"[]", lambda _: b"\xff\xfe"),
        _manifest(lambda manifest: manifest.update(schema_version=2)),
        _manifest(lambda manifest: manifest.update(recipe={})),
        _manifest(lambda manifest: manifest.update(name="\x1b[2Jy")),
        _manifest(lambda manifest: manifest.update(command="touch canary")),
        _manifest(lambda manifest: manifest["recipe"].update(task="unknown")),
        _manifest(lambda manifest: manifest["recipe"].update(space={"kind": "table", "name": "../../x"})),
        _manifest(lambda manifest: manifest.update(finished={})),
        _manifest(lambda manifest: manifest["finished"].update(train={})),
        _finished(supernet={"sha256": "0" * 64}),
        _finished(supernet={"file": "/etc/passwd"}),
        _finished(supernet="supernet.safetensors"),
        _finished(weights={"epoch": -1, "sha256": "0" * 64}),
        _finished(weights=None),
    ],
    "run/data.npz": [
        *(_cut, _pickled, _nothing, _arrays(classes=np.array([{"a": 1}], dtype=object))),
        _zipped(zipfile.ZIP_DEFLATED, bytes(2**25)),
        _zipped(zipfile.ZIP_STORED, _claiming("(1099511627776,)")),
        _zipped(zipfile.ZIP_STORED, _claiming("(-1, -1099511627776)")),
        _zipped(zipfile.ZIP_STORED, _claiming("(" * 2000 + ")" * 2000)),
        _zipped(zipfile.ZIP_STORED, _claiming("()", "|O")),
        _zipped(zipfile.ZIP_STORED, *[b""] * 5000),
        _zipped(zipfile.ZIP_STORED, pickle.dumps(Malicious())),
    ],
    "run/predictor.npz": [_pickled, _arrays(weights=np.array([Malicious()], dtype=object))],
    "run/search.sqlite": [
        *(_cut, _pickled, lambda content: content[:100] + b"\xff" * (len(content) - 100)),
        _database("CREATE TABLE evaluations (digest TEXT)", "CREATE TABLE mine (a)"),
        _database("CREATE VIRTUAL TABLE evaluations USING rtree (id, low, high)"),
        _database("CREATE TABLE evaluations (digest TEXT)", "CREATE INDEX evaluations_of ON evaluations (abs(digest))"),
        _database("CREATE VIEW evaluations AS SELECT 1 AS digest"),
        _database(
            "CREATE TABLE evaluations (digest TEXT)",
            "CREATE TRIGGER t AFTER INSERT ON evaluations BEGIN DELETE FROM evaluations; END",
        ),
    ],
}

WEIGHTS: dict[str, Callable[[bytes], bytes]] = {
    "of-nothing": _nothing,
    "pickled": _pickled,
    "cut": _cut,
    "flipped": lambda content: content[:-3] + bytes([content[-3] ^ 64]) + content[-2:],
    "of-others": lambda _: safe_bytes({"a": torch.zeros(2)}),
    "long-header": lambda _: struct.pack("<Q", 9 << 20) + b" " * (9 << 20),
    "claims": lambda _: struct.pack("<Q", 2**62) + b"{}",
    "deep": lambda _: struct.pack("<Q", 200_000) + b'{"a":' * 40_000,
    "stated-deep": lambda _: safe_bytes({"a": torch.zeros(2)}, {"nasdeploy": "[" * 100_000}),
    "stated-list": lambda _: safe_bytes({"a": torch.zeros(2)}, {"nasdeploy": "[]"}),
}


def _with_weights(content: Files, weights: bytes) -> Files:
    """A run whose manifest knows of other weights."""
    known = {"sha256": sha256(weights).hexdigest()}
    manifest = _finished(weights={"epoch": 1, **known}, supernet=known)(content["run/manifest.json"])
    return {**content, "run/supernet.safetensors": weights, "run/manifest.json": manifest}


def unpack_all() -> None:
    """Unpack every file of a folder, in a process that may not take much memory; write what each was told."""
    folder, told, more = Path(sys.argv[1]), {}, int(sys.argv[3])
    # Importing what it needs takes memory as well.
    torch.zeros(1).sum()
    resource.setrlimit(resource.RLIMIT_AS, (taken() + more,) * 2)
    for path in sorted(folder.iterdir()):
        try:
            unpack(path, Path("new/run"), Progress(quiet=True))
            told[path.name] = "accepted"
        except UserError as error:
            told[path.name] = str(error)
        except BaseException as error:  # Whatever it is, a user would see a traceback.
            told[path.name] = f"{type(error).__name__}: {error}"
    Path(sys.argv[2]).write_text(json.dumps(told), encoding="utf-8")
