"""What a pickle describes, as plain values: it is taken apart and never run, so that nothing in it can act.

`torch.load(weights_only=True)` runs a pickle with few functions allowed, which is too much for files of strangers:
130 bytes that call `bytearray(10 ** 9)` take a gigabyte. It also refuses what common training scripts keep beside their
weights, such as their arguments. Here a call is a record of what would be called, and of what.

Scripts keep objects of their own classes too, such as their settings, and those classes are not there when somebody
else reads the file. A pickle makes such an object without arguments (`NEWOBJ`, or `copyreg._reconstructor` in the first
two protocols) and then hands it its state, which is data. So a class that nobody knows may be named, and an object of
it be made of nothing: what is kept is a record with the class's name. Harm is done by what is called (`REDUCE`), or
made of arguments, which no such object needs: of unknown names that is refused, although it would not be done either.
"""

import io
import pickletools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasdeploy.core.errors import one_line

LARGEST = 16 << 20
"""The most bytes of a pickle: that of a network of 1000 tensors has 150 kB."""
MOST_OPERATIONS = 500_000
"""The most operations of a pickle, each of which makes one object of some 60 bytes at most beside its own text.

A network of 1000 tensors takes 30,000, and four times as many with averages and two states of an optimizer."""


class UnreadablePickle(ValueError):
    """A pickle that is damaged, or not one of plain values and tensors; the message completes a sentence."""


@dataclass(frozen=True)
class Named:
    """A class or function that a pickle names; it is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, eq=False)
class Call:
    """A call that a pickle would make, or an object that it would; `function` names what it is of."""

    function: Named
    arguments: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Stored:
    """A piece of data that is kept outside the pickle, by what the pickle calls it."""

    identity: Any


_MAPPINGS = {"collections.OrderedDict", "collections.defaultdict", "collections.Counter"}
_PLAIN = _MAPPINGS | {
    "argparse.Namespace",
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("dict", "float", "int", "list", "set")),
    "_codecs.encode",
    "pathlib.PosixPath",
    "pathlib.Path",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "torch.Size",
    "torch.device",
}
"""Classes and functions whose objects training scripts keep beside weights; what else is called is refused."""
_RECONSTRUCTORS = ("copyreg._reconstructor", "copy_reg._reconstructor")
"""The function that makes an object without arguments, as Python 3 and Python 2 call it."""
_REBUILDS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_parameter")
_TYPE = re.compile(r"[A-Z][A-Za-z0-9]*Storage|b?float\d+|u?int\d+|bool|long")


@dataclass(frozen=True)
class Described:
    """What a pickle describes."""

    value: Any
    stored: tuple[Stored, ...]
    """All that it keeps outside, in the order in which it names them."""


def described(stream: io.BytesIO) -> Described:
    """Return what the pickle at a stream's position describes, and leave the stream behind it.

    Dictionaries keep their entries with strings and integers for keys; an object of a class that is not known is a
    `Call` without arguments. Raises `UnreadablePickle` for what is damaged or too large, or calls a function that has
    no business beside weights.
    """
    machine = _Machine()
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if number >= MOST_OPERATIONS:
                raise UnreadablePickle(f"its pickle has more than {MOST_OPERATIONS} operations")
            machine.do(opcode.name, argument)
        return Described(machine.pop(), tuple(machine.stored))
    except UnreadablePickle:
        raise
    except (LookupError, TypeError, ValueError, OverflowError):
        raise UnreadablePickle("its pickle is damaged or cut off") from None


class _Mark:
    """The place on the stack at which a collection begins."""


class _Machine:
    """The stack and the memory of a pickle, whose operations make plain values."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memory: dict[int, Any] = {}
        self.stored: list[Stored] = []

    def do(self, operation: str, argument: Any) -> None:
        """Carry out one operation; raises `UnreadablePickle` for one that plain values do not need."""
        if operation in _VALUES:
            self._stack.append(argument)
        elif operation in _CONSTANTS:
            self._stack.append(_CONSTANTS[operation]())
        elif operation not in _IGNORED and not (self._collect(operation) or self._refer(operation, argument)):
            self._describe(operation, argument)

    def pop(self) -> Any:
        """Return the value on top of the stack, and take it off."""
        value = self._stack.pop()
        if isinstance(value, _Mark):
            raise UnreadablePickle("its pickle is damaged")
        return value

    def _collect(self, operation: str) -> bool:
        """Make or fill a collection; return whether the operation does that."""
        match operation:
            case "TUPLE":
                self._stack.append(tuple(self._popped_to_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self._stack.append(self._popped(int(operation[-1])))
            case "LIST" | "FROZENSET":
                self._stack.append(self._popped_to_mark())
            case "DICT":
                entries = self._popped_to_mark()
                self._stack.append({})
                self._fill(entries)
            case "APPEND":
                self._extend([self.pop()])
            case "APPENDS" | "ADDITEMS":
                self._extend(self._popped_to_mark())
            case "SETITEM":
                self._fill(self._popped(2))
            case "SETITEMS":
                self._fill(self._popped_to_mark())
            case _:
                return False
        return True

    def _refer(self, operation: str, argument: Any) -> bool:
        """Keep what is on the stack, or take it from where it was kept; return whether the operation does that."""
        match operation:
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memory[argument] = self._stack[-1]
            case "MEMOIZE":
                self._memory[len(self._memory)] = self._stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                self._stack.append(self._memory[argument])
            case "DUP":
                self._stack.append(self._stack[-1])
            case "POP":
                self._stack.pop()
            case "POP_MARK":
                self._popped_to_mark()
            case _:
                return False
        return True

    def _describe(self, operation: str, argument: Any) -> None:
        """Describe what a pickle names, calls, builds, or keeps elsewhere."""
        match operation:
            case "GLOBAL":
                self._stack.append(_named(*str(argument).split(" ", 1)))
            case "STACK_GLOBAL":
                self._stack.append(_named(*self._popped(2)))
            case "REDUCE":
                self._stack.append(_called(*self._popped(2)))
            case "NEWOBJ":
                made, arguments = self._popped(2)
                self._stack.append(_made(made) if arguments == () else _called(made, arguments))
            case "NEWOBJ_EX":
                function, arguments, _ = self._popped(3)
                self._stack.append(_called(function, arguments))
            case "BUILD":
                # The state of an object: no weights of a state dict are kept there.
                self.pop()
            case "BINPERSID":
                self.stored.append(Stored(self.pop()))
                self._stack.append(self.stored[-1])
            case _:
                raise UnreadablePickle(f"its pickle has an operation that no weights need ({operation})")

    def _popped(self, count: int) -> tuple[Any, ...]:
        return tuple(self.pop() for _ in range(count))[::-1]

    def _popped_to_mark(self) -> list[Any]:
        found: list[Any] = []
        while not isinstance(value := self._stack.pop(), _Mark):
            found.append(value)
        return found[::-1]

    def _fill(self, entries: Sequence[Any]) -> None:
        """Add keys and values, one after the other, to the dictionary on top; any other object goes without."""
        target = self._stack[-1]
        if isinstance(target, dict):
            for key, value in zip(entries[::2], entries[1::2], strict=True):
                # To hash whatever a stranger nests may end the process.
                if isinstance(key, str | int):
                    target[key] = value

    def _extend(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(values)


def _named(module: Any, name: Any) -> Named:
    return Named(str(module), str(name))


def _called(function: Any, arguments: Any) -> Any:
    """Return what a call of a known function describes; raises `UnreadablePickle` for any other."""
    if not isinstance(function, Named) or not isinstance(arguments, tuple):
        raise UnreadablePickle("its pickle is damaged")
    if str(function) in _RECONSTRUCTORS and len(arguments) == 3:
        return _made(arguments[0])
    if not _is_known(function):
        raise UnreadablePickle(f"its pickle would use {one_line(function)}")
    return {} if str(function) in _MAPPINGS else Call(function, arguments)


def _made(kind: Any) -> Any:
    """Return what an object of a class is that is made without arguments: a mapping, or a record with its name."""
    if not isinstance(kind, Named):
        raise UnreadablePickle("its pickle is damaged")
    return {} if str(kind) in _MAPPINGS else Call(kind, ())


def _is_known(named: Named) -> bool:
    # What torch itself names are types of storages and of numbers: `torch.FloatStorage`, `torch.float32`.
    of_torch = named.module in ("torch", "torch.storage") and _TYPE.fullmatch(named.name) is not None
    return str(named) in _PLAIN or str(named).startswith(_REBUILDS) or of_torch


_IGNORED = {"PROTO", "FRAME", "STOP"}
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_DICT": dict,
    "MARK": _Mark,
}
