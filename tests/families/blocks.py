"""Blocks of the writer: shapes and costs. Torch-free."""

from dataclasses import dataclass

from nasdeploy.core.plan import Block, TensorType


@dataclass(frozen=True)
class Lift(Block):
    """A linear layer: `[length, inside] -> [length, width]`."""

    length: int
    inside: int
    width: int

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        return (TensorType((self.length, self.inside)),)

    @property
    def output(self) -> TensorType:
        return TensorType((self.length, self.width))

    @property
    def macs(self) -> int:
        return self.length * self.inside * self.width

    @property
    def params(self) -> int:
        return (self.inside + 1) * self.width


@dataclass(frozen=True)
class Mix(Block):
    """Layer normalisation, two linear layers with GELU between, and a shortcut: `[length, width]` to the same."""

    length: int
    width: int
    expand: int

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        return (TensorType((self.length, self.width)),)

    @property
    def output(self) -> TensorType:
        return TensorType((self.length, self.width))

    @property
    def hidden(self) -> int:
        return self.width * self.expand

    @property
    def macs(self) -> int:
        return 2 * self.length * self.width * self.hidden

    @property
    def params(self) -> int:
        return 2 * self.width + (self.width + 1) * self.hidden + (self.hidden + 1) * self.width

    @property
    def live(self) -> int:
        """Beside the input: its normalisation and the hidden layer, or the hidden layer and the output."""
        return self.length * (2 * self.width + self.hidden)


@dataclass(frozen=True)
class Summary(Block):
    """Layer normalisation, and the mean over the length: `[length, width] -> [width]`."""

    length: int
    width: int

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        return (TensorType((self.length, self.width)),)

    @property
    def output(self) -> TensorType:
        return TensorType((self.width,))

    @property
    def macs(self) -> int:
        return 0

    @property
    def params(self) -> int:
        return 2 * self.width


@dataclass(frozen=True)
class Embed(Block):
    """A vector for each token: integers `[length] -> [length, width]`."""

    length: int
    width: int
    vocabulary: int

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        return (TensorType((self.length,), "int64", self.vocabulary),)

    @property
    def output(self) -> TensorType:
        return TensorType((self.length, self.width))

    @property
    def macs(self) -> int:
        return 0

    @property
    def params(self) -> int:
        return self.vocabulary * self.width


@dataclass(frozen=True)
class Join(Block):
    """The sum of `[length, width]` and `[width]`, normalised by layer: `[length, width]`."""

    length: int
    width: int

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        return (TensorType((self.length, self.width)), TensorType((self.width,)))

    @property
    def output(self) -> TensorType:
        return TensorType((self.length, self.width))

    @property
    def macs(self) -> int:
        return 0

    @property
    def params(self) -> int:
        return 2 * self.width


@dataclass(frozen=True)
class Attend(Block):
    """Attention with one head from `[length, width]` to a memory `[memory, width]`, and a shortcut."""

    length: int
    memory: int
    width: int

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        return (TensorType((self.length, self.width)), TensorType((self.memory, self.width)))

    @property
    def output(self) -> TensorType:
        return TensorType((self.length, self.width))

    @property
    def macs(self) -> int:
        projections = 2 * (self.length + self.memory) * self.width**2
        return projections + 2 * self.length * self.memory * self.width

    @property
    def params(self) -> int:
        return 2 * self.width + 4 * self.width**2

    @property
    def live(self) -> int:
        """Both inputs beside queries, keys, values and the attention."""
        return (2 * self.length + 3 * self.memory) * self.width + self.length * self.memory


@dataclass(frozen=True)
class Unembed(Block):
    """Logits of the next token, from the last position: `[length, width] -> [vocabulary]`."""

    length: int
    width: int
    vocabulary: int

    @property
    def inputs(self) -> tuple[TensorType, ...]:
        return (TensorType((self.length, self.width)),)

    @property
    def output(self) -> TensorType:
        return TensorType((self.vocabulary,))

    @property
    def macs(self) -> int:
        return self.width * self.vocabulary

    @property
    def params(self) -> int:
        return self.vocabulary * self.width
