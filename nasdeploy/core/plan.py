"""Plans: a network as a small graph of blocks with concrete shapes. Torch-free."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from math import prod

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Block(ABC):
    """A piece of a network with concrete shapes: what is built, counted and measured as one.

    Shapes leave out the batch dimension, e.g. `(channels, height, width)`.
    """

    @property
    @abstractmethod
    def inputs(self) -> tuple[Shape, ...]:
        """Shapes of the inputs."""

    @property
    @abstractmethod
    def output(self) -> Shape:
        """Shape of the output."""

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
        return sum(prod(shape) for shape in (*self.inputs, self.output))

    @property
    def key(self) -> str:
        """The block's row in a latency table: its class and all its fields, readable and unique."""
        values = ",".join(f"{field.name}={_plain(getattr(self, field.name))}" for field in fields(self))
        return f"{type(self).__name__}({values})"


def _plain(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Step:
    """One block of a plan; `takes` names plan inputs or earlier steps, `times` is how often it runs per sample."""

    name: str
    block: Block
    takes: tuple[str, ...]
    times: int = 1


@dataclass(frozen=True)
class Plan:
    """A network: named inputs with shapes, steps in order of execution, and the names of the steps that it returns."""

    inputs: tuple[tuple[str, Shape], ...]
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations for one sample."""
        return sum(step.times * step.block.macs for step in self.steps)

    @property
    def params(self) -> int:
        """Learned parameters; a step that runs several times counts once."""
        return sum(step.block.params for step in self.steps)

    @property
    def keys(self) -> tuple[str, ...]:
        """Latency-table keys of the steps, in order."""
        return tuple(step.block.key for step in self.steps)
