"""Plans: a network as parts, each a small graph of blocks with concrete shapes. Torch-free."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from math import prod
from typing import Literal, TypeVar

Shape = tuple[int, ...]
DType = Literal["float32", "int64"]
Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class TensorType:
    """What a tensor holds for one sample; raises `ValueError` for integers without a range, or floats with one."""

    shape: Shape
    """The sizes without the batch dimension, e.g. `(channels, height, width)`."""
    dtype: DType = "float32"
    """The type of the numbers."""
    values: int | None = None
    """The integers are `0..values - 1`, e.g. the size of a vocabulary; None for floats."""

    def __post_init__(self) -> None:
        if (self.dtype == "int64") != (self.values is not None):
            raise ValueError(f"integers have a number of values, and nothing else has; found {self}")

    @property
    def elements(self) -> int:
        """The number of elements for one sample."""
        return prod(self.shape)


@dataclass(frozen=True)
class Block(ABC):
    """A piece of a network with concrete shapes: what is built, counted and measured as one."""

    @property
    @abstractmethod
    def inputs(self) -> tuple[TensorType, ...]:
        """The types of the inputs, in the order in which the block's computation takes them."""

    @property
    @abstractmethod
    def output(self) -> TensorType:
        """The type of the output."""

    @property
    @abstractmethod
    def macs(self) -> int:
        """Multiply-accumulate operations of convolutions and matrix products for one sample."""

    @property
    @abstractmethod
    def params(self) -> int:
        """Learned parameters (running statistics are not counted)."""

    @property
    def live(self) -> int:
        """Most elements of activations that exist at once while it computes one sample, its inputs and output included.

        A block with larger tensors inside says so. Activation functions and normalisation are taken to work in place.
        """
        return sum(tensor.elements for tensor in (*self.inputs, self.output))

    @property
    def key(self) -> str:
        """The block's row in a latency table: its class and its fields, readable and unique.

        A field that has its default is left out: a new field with a default changes no key of blocks without it, so
        that tables and runs in existence stay valid.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        defaults = {field.name: field.default for field in fields(self)}
        return key_of(type(self).__name__, {name: v for name, v in values.items() if v != defaults[name]})


def key_of(name: str, values: Mapping[str, object]) -> str:
    """Return the key of a block of the class `name` with these values."""
    return f"{name}({','.join(f'{each}={_plain(value)}' for each, value in values.items())})"


def _plain(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Step:
    """One block of a part, on tensors that are there when it runs."""

    name: str
    block: Block
    takes: tuple[str, ...]
    """The names of the part's inputs and of earlier steps, in the order of the block's inputs."""
    slot: str = ""
    """The name of the slot whose weights it computes with; by default the one of its own name."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "slot", self.slot or self.name)


@dataclass(frozen=True)
class Part:
    """A graph that is executed, measured and exported as a whole, and how often it runs for one sample.

    A convolutional network is one part that runs once; an encoder-decoder is an encoder that runs once and a decoding
    step that runs as often as tokens are written.
    """

    name: str
    inputs: tuple[tuple[str, TensorType], ...]
    steps: tuple[Step, ...]
    """The steps in order of execution."""
    outputs: tuple[str, ...]
    """The names of the steps whose outputs the part returns."""
    runs: int = 1

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)


@dataclass(frozen=True)
class Plan:
    """A network: its parts, whose steps have different names."""

    parts: tuple[Part, ...]

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The steps of all parts, part by part."""
        return tuple(step for part in self.parts for step in part)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def part(self, name: str) -> Part:
        """Return the part called `name`; raises `KeyError` if there is none."""
        for part in self.parts:
            if part.name == name:
                return part
        raise KeyError(name)

    @property
    def only(self) -> Part:
        """The part of a network that has one; raises `ValueError` for another network."""
        if len(self.parts) != 1:
            raise ValueError(f"a network of one part is expected; it has {', '.join(part.name for part in self.parts)}")
        return self.parts[0]

    def total(self, cost: Callable[[Block], Number]) -> Number:
        """Add up a cost of blocks for one sample: the sum over parts of runs x the sum over steps."""
        return sum(part.runs * sum(cost(step.block) for step in part) for part in self.parts)

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations for one sample."""
        return self.total(lambda block: block.macs)

    @property
    def params(self) -> int:
        """Learned parameters; a slot's weights count once, for the first step that computes with them."""
        return sum({step.slot: step.block.params for step in reversed(self.steps)}.values())

    @property
    def keys(self) -> tuple[str, ...]:
        """Latency-table keys of the steps, in order."""
        return tuple(step.block.key for step in self.steps)
