"""What a `.mnn` file holds, read without MNN: its inputs and outputs, and whether its sizes are right.

It is a flatbuffer. MNN checks that its offsets stay inside the file, and nothing else: weights that are fewer than a
convolution reads end the process. So what is read here is compared with what it is for. The places of fields are those
of MNN's schema (`MNN.fbs`, `CaffeOp.fbs`, `Tensor.fbs`), which only grows at the end.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from nasdeploy.core.plan import Shape

_INPUT, _CONSTANT, _REDUCTION, _POOLING = 34, 11, 68, 47
_CONVOLUTIONS = (12, 13)
"""The `OpType` of convolutions, and of depthwise ones."""
_PARAMETERS = {
    _INPUT: 21,
    _CONSTANT: 7,
    _REDUCTION: 50,
    _POOLING: 31,
    12: 9,
    13: 9,
    66: 0,
    80: 0,
    84: 0,
    7: 6,
    10: 4,
    31: 19,
} | {39: 25, 46: 29, 69: 51, 70: 52, 73: 55, 83: 61, 85: 4, 90: 64, 91: 65, 101: 70, 107: 64, 129: 66, 603: 88}
"""The `OpParameter` of each `OpType` that networks are made of; MNN reads it as that, whatever it is."""
_DIMENSIONS = 8
_HALF = 3
"""The `IDSTQuan.type` of weights in fp16."""
_DATA = {1: (7, 1), 3: (5, 1), 4: (3, 1), 6: (4, 1), 9: (6, 1), 19: (3, 2)}
"""The field of a `Blob` that holds its numbers, and its entries for a number, by the `DataType`."""
_TYPES = {1: "float32", 3: "int32", 9: "int64", 19: "float16"}
_LARGEST = 1 << 31
_MOST = 1 << 16
"""The padding below which it is believed."""


@dataclass(frozen=True)
class MnnTensor:
    """An input of a file."""

    name: str
    shape: Shape
    """The shape; what is left open is -1."""
    dtype: str


@dataclass(frozen=True)
class MnnFile:
    """What a file says of itself."""

    inputs: tuple[MnnTensor, ...]
    """The inputs, in the order of the model that it was made from."""
    outputs: tuple[str, ...]
    """The names of the outputs, in that order."""


def read_mnn(content: bytes) -> MnnFile:
    """Read a file; raises `ValueError`, in words, for what is none, is damaged, or has weights that do not fit."""
    if not 16 <= len(content) < _LARGEST:
        raise ValueError(f"{len(content)} bytes are no model")
    try:
        net = FlatTable.root(content)
        tensors = net.strings(7)
        operators = list(net.tables(3))
        if not tensors or not operators:
            raise ValueError("it has no operators")
        _check_order(operators, len(tensors))
        for operator in operators:
            _check(operator)
        inputs = tuple(_input(each, tensors) for each in operators if each.integer(5) == _INPUT)
        outputs = tuple(net.strings(4))
    except (struct.error, UnicodeDecodeError, IndexError, OverflowError):
        raise ValueError("it does not hold together") from None
    if not inputs or not outputs or not set(outputs) <= set(tensors):
        raise ValueError("it does not say what it takes and gives")
    return MnnFile(inputs, outputs)


def _input(operator: "FlatTable", tensors: Sequence[str]) -> MnnTensor:
    places, shape = operator.integers(4), operator.table(2)
    if len(places) != 1 or shape is None:
        raise ValueError("it has an input without a shape")
    kind = shape.integer(1, 1)
    return MnnTensor(tensors[places[0]], tuple(shape.integers(0)), _TYPES.get(kind, f"type {kind}"))


def _check_order(operators: Sequence["FlatTable"], tensors: int) -> None:
    """Raise `ValueError` unless each operator takes what others before it gave, and gives what none of them did."""
    given: set[int] = set()
    for operator in operators:
        results = operator.integers(4)
        if not given.issuperset(operator.integers(0)) or not given.isdisjoint(results):
            raise ValueError("an operator takes a tensor that is not there yet, or gives one that is")
        given.update(results)
    if not given <= set(range(tensors)):
        raise ValueError("an operator gives a tensor that there is not")


def _check(operator: "FlatTable") -> None:
    """Raise `ValueError` for an operator that reads what is not there."""
    kind, parameters = operator.integer(5), operator.table(2)
    if kind not in _PARAMETERS:
        raise ValueError(f"operator {operator.string(3)} is of a type, {kind}, that is not known here")
    if operator.byte(1) != _PARAMETERS[kind]:
        raise ValueError(f"operator {operator.string(3)} has the parameters of another")
    if parameters is None:
        if _PARAMETERS[kind]:
            raise ValueError(f"operator {operator.string(3)} has no parameters")
        return
    if kind in _CONVOLUTIONS:
        _check_convolution(parameters, len(operator.integers(0)))
    elif kind == _CONSTANT:
        _check_constant(parameters)
    elif kind == _REDUCTION and any(not -_DIMENSIONS <= place < _DIMENSIONS for place in parameters.integers(1)):
        raise ValueError("a reduction is over a dimension that there is not")
    elif kind == _POOLING and not parameters.byte(2) and min(parameters.integer(number) for number in (3, 4, 5, 6)) < 1:
        raise ValueError("a pooling has no such shape")


def _check_convolution(layer: "FlatTable", inputs: int) -> None:
    common = layer.table(0)
    if common is None:
        raise ValueError("a convolution has no shape")
    width, height, *steps = (common.integer(number, 1) for number in (2, 3, 4, 5, 6, 7))
    groups, given, taken = common.integer(9, 1), common.integer(10), common.integer(11)
    pads = [common.integer(0), common.integer(1), *common.integers(14)]
    if min(width, height, *steps, groups, given) < 1 or given % groups or not 0 <= min(pads) <= max(pads) < _MOST:
        raise ValueError("a convolution has no such shape")
    if layer.length(6):
        raise ValueError("its weights lie in another file")
    if inputs > 1:
        return
    weights, biases, stored = layer.length(1), layer.length(2), layer.table(3)
    if stored is not None and not weights:
        if stored.integer(2) != _HALF:
            # Quantised: of a code that is not read here.
            return
        weights = stored.length(0) // 2
    wanted = given * width * height * (taken // groups or 1)
    if weights != wanted or biases not in (given, 0):
        raise ValueError(f"a convolution has {weights} weights and {biases} biases, and reads {wanted} and {given}")


def _check_constant(blob: "FlatTable") -> None:
    kind, dims = blob.integer(2, 1), blob.integers(0)
    if blob.length(9):
        raise ValueError("its constants lie in another file")
    if kind not in _DATA:
        raise ValueError(f"it has a constant of type {kind}")
    field, entries = _DATA[kind]
    if min(dims, default=1) < 0 or entries * prod(dims) != blob.length(field):
        raise ValueError(f"a constant of shape {dims} has {blob.length(field) / entries:g} numbers")


@dataclass(frozen=True)
class FlatTable:
    """A table of a flatbuffer, at a place in its content; `struct.error` is raised for what lies outside."""

    content: bytes
    at: int

    @classmethod
    def root(cls, content: bytes) -> "FlatTable":
        """Return the outermost table."""
        return cls(content, _offset(content, 0))

    def place(self, number: int) -> int:
        """Return where a field lies; 0 if it has its default."""
        layout = self.at - struct.unpack_from("<i", self.content, self.at)[0]
        if layout < 0:
            raise struct.error
        (size,) = struct.unpack_from("<H", self.content, layout)
        if 4 + 2 * number >= size:
            return 0
        (offset,) = struct.unpack_from("<H", self.content, layout + 4 + 2 * number)
        return self.at + int(offset) if offset else 0

    def integer(self, number: int, default: int = 0) -> int:
        """Return an integer of 32 bits."""
        at = self.place(number)
        return int(struct.unpack_from("<i", self.content, at)[0]) if at else default

    def byte(self, number: int) -> int:
        """Return an integer of 8 bits, 0 by default."""
        at = self.place(number)
        return int(struct.unpack_from("<B", self.content, at)[0]) if at else 0

    def table(self, number: int) -> "FlatTable | None":
        """Return the table that a field holds."""
        at = self.place(number)
        return FlatTable(self.content, _offset(self.content, at)) if at else None

    def length(self, number: int) -> int:
        """Return how many entries a vector has."""
        at = self.place(number)
        return int(struct.unpack_from("<I", self.content, _offset(self.content, at))[0]) if at else 0

    def integers(self, number: int) -> list[int]:
        """Return a vector of integers of 32 bits."""
        at, length = self.place(number), self.length(number)
        return list(struct.unpack_from(f"<{length}i", self.content, _offset(self.content, at) + 4)) if length else []

    def _entries(self, number: int) -> Iterator[int]:
        """Where the tables or strings of a vector lie."""
        at, length = self.place(number), self.length(number)
        if 4 * length > len(self.content):
            raise struct.error
        start = _offset(self.content, at) + 4 if length else 0
        return (_offset(self.content, start + 4 * place) for place in range(length))

    def tables(self, number: int) -> "Iterator[FlatTable]":
        """Return a vector of tables."""
        return (FlatTable(self.content, at) for at in self._entries(number))

    def strings(self, number: int) -> list[str]:
        """Return the texts of a vector."""
        return [self._text(at) for at in self._entries(number)]

    def string(self, number: int) -> str:
        """Return a text; "" if there is none."""
        at = self.place(number)
        return self._text(_offset(self.content, at)) if at else ""

    def _text(self, at: int) -> str:
        (length,) = struct.unpack_from("<I", self.content, at)
        if at + 4 + length > len(self.content):
            raise struct.error
        return self.content[at + 4 : at + 4 + length].decode()


def _offset(content: bytes, at: int) -> int:
    return at + int(struct.unpack_from("<I", content, at)[0])
