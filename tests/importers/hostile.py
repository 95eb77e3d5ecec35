"""Files of weights that mean harm, or are none, generated; what is alive in them creates a canary."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from safetensors.torch import save as safe_bytes
from torch import Tensor, nn

CANARY = "canary"
"""The file that code in a pickle would create, in the working directory."""


def network() -> nn.Sequential:
    """The network that all of the files are given for."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 5))


def saved(content: Any, legacy: bool = False) -> bytes:
    """The bytes that `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def rezipped(content: bytes, change: Callable[[str, bytes], bytes | None], method: int = zipfile.ZIP_STORED) -> bytes:
    """An archive with other entries; None leaves one out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", method) as new:
        for name in old.namelist():
            if (entry := change(name, old.read(name))) is not None:
                new.writestr(name, entry)
    return buffer.getvalue()


def with_pickle(pickled: bytes, state: Mapping[str, Tensor] | None = None) -> bytes:
    """An archive of PyTorch with another pickle, beside the storages of a state dict."""
    whole = saved(network().state_dict() if state is None else state)
    return rezipped(whole, lambda name, old: pickled if name.endswith("data.pkl") else old)


CALLS: dict[str, tuple[str, str, tuple[Any, ...]]] = {
    "system": ("os", "system", (f"touch {CANARY}",)),
    "posix": ("posix", "system", (f"touch {CANARY}",)),
    "popen": ("os", "popen", (f"touch {CANARY}",)),
    "subprocess": ("subprocess", "check_output", (["touch", CANARY],)),
    "exec": ("builtins", "exec", (f"open({CANARY!r}, 'w')",)),
    "eval": ("builtins", "eval", (f"open({CANARY!r}, 'w')",)),
    "open": ("builtins", "open", (CANARY, "w")),
    "io": ("io", "open", (CANARY, "w")),
    "codecs": ("codecs", "open", (CANARY, "w")),
    "import": ("builtins", "__import__", ("antigravity",)),
    "getattr": ("builtins", "getattr", ("", "join")),
    "compile": ("builtins", "compile", ("1", "", "eval")),
    "python2": ("__builtin__", "apply", (None,)),
    "runpy": ("runpy", "run_path", (CANARY,)),
    "pickle": ("pickle", "loads", (pickle.dumps(1),)),
    "marshal": ("marshal", "loads", (b"",)),
    "torch.load": ("torch", "load", (CANARY,)),
    "torch.save": ("torch", "save", (1, CANARY)),
    "torch.hub": ("torch.hub", "load", ("a", "b")),
    "torch.jit": ("torch.jit", "load", (CANARY,)),
    "rebuild": ("torch._utils", "_rebuild_wrapper_subclass", ()),
    "numpy": ("numpy", "fromfile", (CANARY,)),
    "partial": ("functools", "partial", (print, 1)),
    "methodcaller": ("operator", "methodcaller", ("touch",)),
    "ctypes": ("ctypes", "CDLL", ("libc.so.6",)),
    "timeit": ("timeit", "timeit", (f"open({CANARY!r}, 'w')",)),
    "rmtree": ("shutil", "rmtree", (CANARY,)),
    "socket": ("socket", "create_connection", (("127.0.0.1", 9),)),
    "thread": ("threading", "Thread", ()),
    "module": ("torch.nn.modules.linear", "Linear", (2, 2)),
    "dotted": ("pathlib", "Path.touch", (CANARY,)),
    "memory": ("builtins", "bytearray", (10**11,)),
}
"""What the pickles would call, and with what."""


def pickled_call(call: str, how: str = "reduce") -> bytes:
    """A pickle, without its end, that makes a call by one of the operations that do."""
    module, name, arguments = CALLS[call]
    given = b"".join(pickle.dumps(a, 2)[2:-1] for a in arguments if not callable(a))
    named = f"c{module}\n{name}\n".encode()
    stacked = pickle.dumps(module, 4)[2:-1] + pickle.dumps(name, 4)[2:-1] + b"\x93"
    return {
        "reduce": named + b"(" + given + b"tR",
        "stacked": stacked + b"(" + given + b"tR",
        "inst": b"(" + given + f"i{module}\n{name}\n".encode(),
        "obj": b"(" + named + given + b"o",
        "newobj": named + b"(" + given + b"t\x81",
        "newobj_ex": named + b"(" + given + b"t}\x92",
        "build": named + b")R}b",
        "extension": b"\x82\x01",
        "identity": b"Pdata\n",
    }[how]


HOWS = ("stacked", "inst", "obj", "newobj", "newobj_ex", "build", "extension", "identity")


def pickles(state: Mapping[str, Tensor] | None = None) -> Iterator[tuple[str, bytes]]:
    """Pickles that would call something: beside weights, by themselves, in places where one may not look.

    The weights are those of `state`, by default of `network`.
    """
    for call in CALLS:
        yield f"{call}.pt", with_pickle(_beside(pickled_call(call), state), state)
    for how in HOWS:
        yield f"{how}.pt", with_pickle(_beside(pickled_call("system", how), state), state)
    evil = pickled_call("exec")
    yield "key.pt", with_pickle(b"\x80\x02}(" + evil + b"K\x01u.")
    yield "dropped.pt", with_pickle(b"\x80\x02" + evil + b"0}.")
    yield "in-arguments.pt", with_pickle(b"\x80\x02cargparse\nNamespace\n)\x81}(X\x01\0\0\0a" + evil + b"ub.")
    yield "in-hooks.pt", with_pickle(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(NK\0))\x89" + evil + b"tR.")
    yield "in-storage.pt", with_pickle(b"\x80\x02" + evil + b"Q.")
    yield "bare.pkl", b"\x80\x02" + evil + b"."
    yield "bare-protocol-0.pkl", evil + b"."
    yield "legacy.pt", saved(network().state_dict(), legacy=True)[:14] + b"\x80\x02" + evil + b"."
    yield "safetensors-by-name.safetensors", b"\x80\x02" + evil + b"."


def _beside(call: bytes, state: Mapping[str, Tensor] | None = None) -> bytes:
    """The pickle of a state dict, with a call as another entry."""
    with zipfile.ZipFile(io.BytesIO(saved(network().state_dict() if state is None else state))) as archive:
        pickled = next(archive.read(name) for name in archive.namelist() if name.endswith("data.pkl"))
    return b"\x80\x02}(X\x0a\0\0\0state_dict" + pickled[2:-1] + b"X\x05\0\0\0other" + call + b"u."


# -- tensors that do not fit


def misfits() -> Iterator[tuple[str, bytes]]:
    """Weights of another network, and such as nothing can be computed with."""
    state = network().state_dict()
    changes: dict[str, Callable[[dict[str, Any]], Any]] = {
        "missing": lambda s: s.pop("0.weight"),
        "no-head": lambda s: s.pop("3.weight"),
        "surplus": lambda s: s.update(other=torch.zeros(2)),
        "shape": lambda s: s.update({"0.weight": torch.zeros(4, 3, 5, 5)}),
        "transposed": lambda s: s.update({"3.weight": torch.zeros(4, 5)}),
        "head-of-more-features": lambda s: s.update({"3.weight": torch.zeros(5, 6)}),
        "halves-of-a-head": lambda s: s.update({"3.weight": torch.zeros(7, 4)}),
        "scalar": lambda s: s.update({"3.weight": torch.tensor(1.0)}),
        "no-classes": lambda s: s.update({"3.weight": torch.zeros(0, 4), "3.bias": torch.zeros(0)}),
        "whole-numbers": lambda s: s.update({"0.weight": s["0.weight"].to(torch.int8)}),
        "nan": lambda s: s["0.weight"].fill_(torch.nan),
        "infinite": lambda s: s["3.bias"].fill_(torch.inf),
        "variance": lambda s: s["1.running_var"].fill_(-1.0),
        "name-of-lines": lambda s: s.update({"a\nb" * 2000: torch.zeros(1)}),
    }
    for name, change in changes.items():
        copy = {key: tensor.clone() for key, tensor in state.items()}
        change(copy)
        yield f"{name}.pt", saved(copy)
    yield "empty.pt", saved({})
    yield "a-tensor.pt", saved(torch.zeros(3))
    yield "a-list.pt", saved([torch.zeros(3)])
    yield "numbers-for-names.pt", saved({1: torch.zeros(3)})
    yield "no-key.pt", saved({"mine": state})
    yield "too-deep.pt", saved({"model": {"model": {"model": {"model": {"model": state}}}}})
    yield "sparse.pt", saved({**state, "0.weight": torch.eye(3).to_sparse()})
    yield "optimizer.pt", saved({"optimizer": {"state": {0: {"step": torch.zeros(1)}}}})
    yield "module.pt", saved(network())


def misfits_of(state: Mapping[str, Tensor], conv: str, head: str, norm: str) -> Iterator[tuple[str, bytes]]:
    """Weights that are almost those of a published supernet; `conv`, `head` and `norm` are names of modules in it."""
    weight, classifier = f"{conv}.weight", f"{head}.weight"
    features = state[classifier].shape[1]
    changes: dict[str, Callable[[dict[str, Tensor]], Any]] = {
        "published-missing": lambda s: s.pop(weight),
        "published-without-a-head": lambda s: s.pop(classifier),
        "published-half-of-the-statistics": lambda s: s.pop(f"{norm}.running_mean"),
        "published-surplus": lambda s: s.update({f"{conv}.bias": torch.zeros(3)}),
        "published-shape": lambda s: s.update({weight: torch.zeros(1, 2, 3)}),
        "published-whole-numbers": lambda s: s.update({weight: s[weight].to(torch.int8)}),
        "published-wide-head": lambda s: s.update({classifier: torch.ones(1000, features + 8)}),
        "published-other-classes": lambda s: s.update(
            {classifier: torch.randn(7, features), f"{head}.bias": torch.zeros(7)}
        ),
        "published-no-classes": lambda s: s.update(
            {classifier: torch.zeros(0, features), f"{head}.bias": torch.zeros(0)}
        ),
        "published-wide-and-empty": lambda s: s.update({classifier: torch.zeros(2**40, 0)}),
        "published-halves-of-a-head": lambda s: s.update({f"{head}.bias": torch.zeros(7)}),
        "published-nan": lambda s: s.update({weight: torch.full_like(s[weight], torch.nan)}),
        "published-uniform": lambda s: s.update({weight: torch.ones_like(s[weight])}),
        "published-variance": lambda s: s.update({f"{norm}.running_var": -torch.ones_like(s[f"{norm}.running_var"])}),
        "published-name-of-lines": lambda s: s.update({"a\nb" * 2000: torch.zeros(1)}),
    }
    for name, change in changes.items():
        copy = dict(state)
        change(copy)
        yield f"{name}.pt", saved({"epoch": 1, "state_dict": copy}, legacy=True)


# -- claims


def claims() -> Iterator[tuple[str, bytes]]:
    """Files that claim more than they hold."""
    whole = saved(network().state_dict())
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        pickled = archive.read("archive/data.pkl")
    size, elements = b"(K\x04K\x03K\x03K\x03t", b"Klt"
    assert size in pickled
    large = b"J" + struct.pack("<i", 2**30)
    yield "size.pt", with_pickle(pickled.replace(size, b"(" + large * 4 + b"t"))
    yield "strides.pt", with_pickle(pickled.replace(size + b"q", b"(" + large + b"K\x00K\x00K\x00tq", 1))
    yield "negative.pt", with_pickle(pickled.replace(size, b"(J\xff\xff\xff\xffK\x03K\x03K\x03t"))
    yield "elements.pt", with_pickle(pickled.replace(elements, large + b"t"))
    other = b"X\x01\0\0\x001"
    assert other in pickled
    yield "two-sizes.pt", with_pickle(pickled.replace(other, b"X\x01\0\0\x000"))
    yield "no-storage.pt", rezipped(whole, lambda name, old: None if name.endswith("data/0") else old)
    yield "short-storage.pt", rezipped(whole, lambda name, old: old[:8] if name.endswith("data/0") else old)
    yield "long-storage.pt", rezipped(whole, lambda name, old: old * 9 if name.endswith("data/0") else old)
    yield "big-endian.pt", rezipped(whole, lambda name, old: b"big" if name.endswith("byteorder") else old)
    yield (
        "bomb.pt",
        rezipped(whole, lambda name, old: bytes(2**25) if name.endswith("data/0") else old, zipfile.ZIP_DEFLATED),
    )
    yield (
        "pickle-bomb.pt",
        rezipped(whole, lambda name, old: bytes(2**25) if name.endswith("data.pkl") else old, zipfile.ZIP_DEFLATED),
    )
    yield "directory.pt", _central(whole, 20, struct.pack("<II", 2**31, 2**31))
    yield "lengths.pt", _central(whole, 24, struct.pack("<I", 2**31))
    yield "text-of-4-GB.pt", with_pickle(b"\x80\x02X\xff\xff\xff\xff.")
    yield "bytes-of-1-EB.pt", with_pickle(b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b".")
    yield "integer.pt", with_pickle(b"\x80\x02\x8b\xff\xff\xff\x7f.")
    yield "nested.pt", with_pickle(b"\x80\x02}" + b"(" * 50_000 + b"t" * 50_000 + b"K\x01s.")
    yield "marks.pt", with_pickle(b"\x80\x02" + b"(" * 600_000 + b".")
    yield "lists.pt", with_pickle(b"\x80\x02" + b"]" * 600_000 + b".")
    yield "doubling.pt", with_pickle(b"\x80\x02](" + b"K\x01" * 9 + b"e" + b"2\x86" * 99_999 + b".")
    yield "itself.pt", with_pickle(b"\x80\x02}q\0X\x05\0\0\0modelh\0s.")
    yield "legacy-size.pt", saved(network().state_dict(), legacy=True).replace(size, b"(" + large * 4 + b"t")
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    yield "claim.safetensors", struct.pack("<Q", len(header)) + header
    yield "header.safetensors", struct.pack("<Q", 2**62) + b"{}"
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}).encode()
    yield "shape.safetensors", struct.pack("<Q", len(header)) + header + bytes(4)
    yield "deep.safetensors", struct.pack("<Q", 200_000) + b'{"a":' * 40_000


def _central(content: bytes, offset: int, value: bytes) -> bytes:
    """An archive with other bytes in each entry of its directory."""
    found = bytearray(content)
    start = found.find(b"PK\x01\x02")
    while start >= 0:
        found[start + offset : start + offset + len(value)] = value
        start = found.find(b"PK\x01\x02", start + 4)
    return bytes(found)


# -- no checkpoints, and halves of them


def others() -> Iterator[tuple[str, bytes]]:
    """Files that were cut off or damaged, and such as never were weights."""
    state: dict[str, Tensor] = network().state_dict()
    zipped, legacy, safe = saved(state), saved(state, legacy=True), safe_bytes(state)
    for name, content in (("zip.pt", zipped), ("legacy.pt", legacy), ("safe.safetensors", safe)):
        for part in (0.02, 0.3, 0.6, 0.99):
            yield f"cut-at-{part}-{name}", content[: int(len(content) * part)]
    middle = zipped.find(b"PK\x03\x04", 1500)
    yield (
        "flipped.pt",
        zipped[: middle + 80] + bytes(255 - b for b in zipped[middle + 80 : middle + 120]) + zipped[middle + 120 :],
    )
    yield "empty.bin", b""
    yield "text.pth", b"weights\n" * 99
    yield "page.pt", b"<!DOCTYPE html><html>not found</html>"
    yield "pointer.pt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    yield "json.safetensors", b'{"a": 1}'
    yield "picture.pt", b"\x89PNG\r\n\x1a\n" + bytes(99)
    yield "zeros.pt", bytes(4096)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "no weights")
    yield "another.zip", buffer.getvalue()
    program = io.BytesIO()
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), program)  # type: ignore[no-untyped-call]
    yield "program.pt", program.getvalue()


def files() -> Iterator[tuple[str, bytes]]:
    """All of them, each by a name of its own."""
    yield from pickles()
    yield from misfits()
    yield from claims()
    yield from others()
