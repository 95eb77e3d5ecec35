"""What a `.tflite` file says of itself, read without trust: LiteRT follows its offsets wherever they point.

The file is a FlatBuffer (https://flatbuffers.dev/internals): tables that refer to others by offsets from where the
offset stands, each with a vtable that says where in it which field is. Each offset, length and index that LiteRT reads
is held against the file's end, or against the list that it is an index of, before LiteRT is given the file. The fields
are those of LiteRT's `schema.fbs`; of these, exports write one graph of built-in operators, and all else is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from struct import Struct
from typing import Any

from nasdeploy.core.plan import Shape

_IDENTIFIER = b"TFL3"
_MOST_TABLES = 100_000
"""The tables that are read at most, which is more than any model has: a small file may refer to one any number of
times."""
_MOST_ELEMENTS = 2**31 - 1
"""The elements that a tensor may have: more overflow LiteRT's integers."""

_TABLES: Mapping[str, Sequence[str]] = {
    "Model": ("4", "*OperatorCode", "*SubGraph", "text", "*Buffer", "*4", "*Metadata", "*SignatureDef", "-", "-"),
    "OperatorCode": ("1", "text", "4", "4"),
    "SubGraph": ("*Tensor", "*4", "*4", "*Operator", "text", "4"),
    "Tensor": ("*4", "1", "4", "text", "Quantization", "1", "-", "*4", "1", "-", "-"),
    "Quantization": ("*4", "*4", "*4", "*8", "1", "-", "4"),
    "Operator": ("4", "*4", "*4", "1", "options", "*1", "1", "*1", "*4", "-", "-", "1", "-", "4"),
    "Buffer": ("*1", "8", "8"),
    "Metadata": ("text", "4"),
    "SignatureDef": ("*TensorMap", "*TensorMap", "text", "-", "4"),
    "TensorMap": ("text", "4"),
    "options": (),
    "new_shape": ("*4",),
}
"""The kinds of the fields of each table, in their order: `1`, `4` and `8` are scalars of so many bytes, `text` is a
string, `*4` a list of scalars, a name a table, `*NAME` a list of tables, `options` the table that the field before it
says the type of, and `-` what exports do not have."""
_TYPES = {0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 9: "int8"}
_OPTIONS = {17: "new_shape", 30: "new_shape"}
"""The tables of operators' options that hold more than scalars: those of Reshape and Squeeze."""
_REFUSED_OPTIONS = {3, 111, 115}
"""The others that do: ConcatEmbeddings, VarHandle, Bucketize."""

_U16, _I32, _U32 = Struct("<H"), Struct("<i"), Struct("<I")

_Table = dict[int, Any]
"""The fields that a table has, by number: integers, `memoryview`s of lists of scalars and strings, tables, or lists of
them."""


class DamagedFile(ValueError):
    """Says, in words, why a file cannot be given to LiteRT."""


@dataclass(frozen=True)
class TfliteTensor:
    """An input or output."""

    name: str
    """The name by which the file's signature knows it, or its own where there is none."""
    index: int
    """Where it is among the graph's tensors."""
    dtype: str
    """NumPy's name of its type, or LiteRT's number of one that exports do not have."""
    shape: Shape


@dataclass(frozen=True)
class TfliteFile:
    """What is to be known of a file before it is opened."""

    inputs: tuple[TfliteTensor, ...]
    outputs: tuple[TfliteTensor, ...]
    metadata: Mapping[str, bytes]
    """Notes by name."""


def read_tflite(content: bytes) -> TfliteFile:
    """Return what a file says of itself; raises `DamagedFile` for one that LiteRT may read beyond its end."""
    if len(content) < 8 or content[4:8] != _IDENTIFIER:
        raise DamagedFile("it does not begin as a model does")
    model = _TableReader(content).table(0, "Model")
    graphs, buffers = model.get(2, ()), model.get(4, ())
    if len(graphs) != 1:
        raise DamagedFile(f"it has {len(graphs)} graphs, expected 1")
    if not buffers or buffers[0]:
        raise DamagedFile("its first buffer is not empty")
    for buffer in buffers:
        # Of quantised models they lie behind the tables.
        _check_index("the end of a buffer", buffer.get(1, 0) + buffer.get(2, 0), len(content) + 1)
    _check_graph(graphs[0], len(model.get(1, ())), len(buffers))
    tensors = graphs[0].get(0, ())
    names = {}
    for signature in model.get(7, ()):
        _check_index("a signature's graph", signature.get(4, 0), 1)
        for named in (*signature.get(0, ()), *signature.get(1, ())):
            _check_index("a signature's tensor", named.get(1, 0), len(tensors))
            names[named.get(1, 0)] = _text(named.get(0))
    inputs, outputs = (
        tuple(_described(index, tensors[index], names) for index in _integers(graphs[0].get(side))) for side in (1, 2)
    )
    notes = {}
    for note in model.get(6, ()):
        _check_index("a note's buffer", note.get(1, 0), len(buffers))
        notes[_text(note.get(0))] = _content(buffers[note.get(1, 0)], content)
    return TfliteFile(inputs, outputs, notes)


def _described(index: int, tensor: _Table, names: Mapping[int, str]) -> TfliteTensor:
    kind = tensor.get(1, 0)
    name = names.get(index, _text(tensor.get(3)))
    return TfliteTensor(name, index, _TYPES.get(kind, f"type {kind}"), tuple(_integers(tensor.get(0))))


def _text(text: memoryview | None) -> str:
    return bytes(text or b"").decode(errors="replace")


def _content(buffer: _Table, content: bytes) -> bytes:
    start = buffer.get(1, 0)
    return bytes(buffer.get(0, b"")) or content[start : start + buffer.get(2, 0)]


def _check_graph(graph: _Table, codes: int, buffers: int) -> None:
    tensors = graph.get(0, ())
    for tensor in tensors:
        _check_index("a tensor's buffer", tensor.get(2, 0), buffers)
        sizes = _integers(tensor.get(0))
        if any(size < 0 for size in sizes) or prod(sizes) > _MOST_ELEMENTS:
            raise DamagedFile(f"a tensor of shape {sizes}")
    for name, indices in (("input", graph.get(1)), ("output", graph.get(2))):
        for index in _integers(indices):
            _check_index(f"an {name}", index, len(tensors))
    for operator in graph.get(3, ()):
        _check_index("an operator's code", operator.get(0, 0), codes)
        for number, least in ((1, -1), (2, 0), (8, 0)):
            for index in _integers(operator.get(number)):
                _check_index("an operator's tensor", index, len(tensors), least)


def _check_index(what: str, index: int, length: int, least: int = 0) -> None:
    if not least <= index < length:
        raise DamagedFile(f"{what} is number {index} of {length}")


def _integers(values: memoryview | None) -> list[int]:
    return [] if values is None else [number for (number,) in _I32.iter_unpack(values)]


class _TableReader:
    """Reads tables, each field within the file."""

    def __init__(self, content: bytes) -> None:
        self._content, self._left = memoryview(content), _MOST_TABLES

    def table(self, place: int, kind: str) -> _Table:
        """Return the table that the offset at `place` refers to."""
        self._left -= 1
        if self._left < 0:
            raise DamagedFile(f"it refers to more than {_MOST_TABLES} tables")
        start = place + self._number(_U32, place)
        vtable = start - self._number(_I32, start)
        size, length = self._number(_U16, vtable), self._number(_U16, vtable + 2)
        self._within(vtable, size)
        self._within(start, length)
        found: _Table = {}
        for field, what in enumerate(_TABLES[kind]):
            slot = 4 + 2 * field
            offset = self._number(_U16, vtable + slot) if slot + 2 <= size else 0
            if offset:
                if offset + (int(what) if what.isdecimal() else 4) > length:
                    raise DamagedFile(f"field {field} of a table lies beyond the table")
                found[field] = self._field(start + offset, what, found.get(field - 1))
        return found

    def _field(self, place: int, what: str, before: Any) -> Any:
        if what == "-":
            raise DamagedFile("it has parts that exported models do not have")
        if what.isdecimal():
            return int.from_bytes(self._within(place, int(what)), "little")
        if what == "text":
            text = self._scalars(place, 1)
            self._within(place + self._number(_U32, place) + 4 + len(text), 1)
            return text
        if what == "options":
            if before in _REFUSED_OPTIONS:
                raise DamagedFile("it has operators that exported models do not have")
            return self.table(place, _OPTIONS.get(before, "options"))
        if not what.startswith("*"):
            return self.table(place, what)
        element = what[1:]
        if element.isdecimal():
            return self._scalars(place, int(element))
        places = self._list(place, 4)
        return [self.table(at, element) for at in places]

    def _scalars(self, place: int, width: int) -> memoryview:
        places = self._list(place, width)
        return self._content[places.start : places.stop]

    def _list(self, place: int, width: int) -> range:
        """The places of a list's elements, all of which lie within the file."""
        start = place + self._number(_U32, place)
        count = self._number(_U32, start)
        self._within(start + 4, count * width)
        return range(start + 4, start + 4 + count * width, width)

    def _number(self, struct: Struct, place: int) -> int:
        (number,) = struct.unpack(self._within(place, struct.size))
        return int(number)

    def _within(self, place: int, size: int) -> memoryview:
        if place < 0 or place + size > len(self._content):
            raise DamagedFile(f"it refers to byte {place + size} of {len(self._content)}")
        return self._content[place : place + size]
