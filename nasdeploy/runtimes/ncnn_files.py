"""The files of ncnn: the text of a graph (`.param`), and its weights one after the other (`.bin`).

They are checked before ncnn sees them, which believes what they say: a stride of 0, a cycle or a size beyond the end of
the weights ends the process. NumPy and the standard library only: boards open models, too.

The text is a magic number, the number of layers and that of blobs, then a line a layer: its kind, its name, how many
blobs it takes and gives, these by name, and settings `key=value`; a key of -23300 or below is that of a list, which
begins with its length. How many weights a layer has is said by its settings.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from nasdeploy.core.plan import Shape
from nasdeploy.runtimes.ncnn_layers import LARGEST_SIZE, MAGIC, NcnnLayer, check_layer, layers_of, weights_of

_HALF = 0x01306B47
"""What stands before weights in fp16, where 0 stands before those in fp32."""


@dataclass(frozen=True)
class NcnnInput:
    """What a graph takes, without a batch, which ncnn does not have."""

    shape: Shape
    values: int | None = None
    """The number of values of an input of integers; None for one of floats."""


@dataclass(frozen=True)
class NcnnModel:
    """A graph with its weights."""

    layers: tuple[NcnnLayer, ...]
    weights: tuple[bytes, ...]
    """The weights of each layer, as they lie in the file."""

    @classmethod
    def parse(cls, param: bytes, weights: bytes) -> "NcnnModel":
        """Return the model of two files; raises `ValueError`, in words, for anything that ncnn might stumble over."""
        layers = tuple(layers_of(param))
        _check_graph(layers)
        return cls(layers, tuple(_cut(layers, weights)))

    @property
    def param(self) -> bytes:
        """The text of the graph."""
        blobs = sum(len(layer.outputs) for layer in self.layers)
        lines = (MAGIC, f"{len(self.layers)} {blobs}", *(layer.line for layer in self.layers))
        return "".join(f"{line}\n" for line in lines).encode("ascii")

    @property
    def bin(self) -> bytes:
        """The weights of all layers."""
        return b"".join(self.weights)

    @property
    def inputs(self) -> dict[str, NcnnInput]:
        """The inputs by name; raises `ValueError` for one whose size the file does not say."""
        found = {}
        for layer in self.layers:
            if layer.kind == "Input":
                (name,) = layer.outputs
                sizes = [layer.whole(key) for key in (0, 1, 11, 2) if layer.whole(key)]
                if not sizes or not all(1 <= size <= LARGEST_SIZE for size in sizes) or prod(sizes) > LARGEST_SIZE:
                    raise ValueError(f"input {name}: its sizes are {sizes or 'not said'}")
                found[name] = NcnnInput(tuple(reversed(sizes)), self._values(name))
        return found

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what no layer takes, in order."""
        taken = {name for layer in self.layers for name in layer.inputs}
        return tuple(name for layer in self.layers for name in layer.outputs if name not in taken)

    def _values(self, blob: str) -> int | None:
        """Return how many values a blob of integers has: what looks them up knows."""
        for layer in self.layers:
            if blob in layer.inputs:
                if layer.kind == "Embed":
                    return layer.whole(1)
                if layer.kind in ("Split", "Reshape"):
                    found = (self._values(name) for name in layer.outputs)
                    return next((values for values in found if values is not None), None)
        return None

    def part(self, outputs: Sequence[str]) -> "NcnnModel":
        """Return the model of these outputs alone: the layers that they need, with their weights."""
        wanted, kept = set(outputs), []
        for place in reversed(range(len(self.layers))):
            layer = self.layers[place]
            used = tuple(name for name in layer.outputs if name in wanted)
            if used:
                # A copy for a layer that is left out would be an output.
                kept.append((replace(layer, outputs=used) if layer.kind == "Split" else layer, self.weights[place]))
                wanted.update(layer.inputs)
        layers, weights = zip(*reversed(kept), strict=True)
        return NcnnModel(layers, weights)

    def reshaped(self, inputs: Mapping[str, Shape], outputs: Mapping[str, Shape]) -> "NcnnModel":
        """Return the same with inputs and outputs of other shapes: of these inputs the graph goes on to see the shape
        that is given, and these outputs are given out in theirs."""
        found: list[tuple[NcnnLayer, bytes]] = []
        for layer, weights in zip(self.layers, self.weights, strict=True):
            names = {name: f"{name}.inside" for name in layer.inputs if name in inputs}
            names |= {name: f"{name}.inside" for name in layer.outputs if name in outputs}
            found.append((_renamed(layer, names), weights))
            wanted = inputs if layer.kind == "Input" else outputs
            for name in layer.outputs:
                if name in wanted:
                    ends = (name, f"{name}.inside") if layer.kind == "Input" else (f"{name}.inside", name)
                    found.append((_reshape(*ends, wanted[name]), b""))
        layers, parts = zip(*found, strict=True)
        return NcnnModel(layers, parts)

    def renamed(self, names: Mapping[str, str], shapes: Mapping[str, Shape]) -> "NcnnModel":
        """Return the same with other names of blobs, and with inputs (by the new name) that say their shapes."""
        layers = (_renamed(layer, names) for layer in self.layers)
        return replace(self, layers=tuple(_with_shape(layer, shapes) for layer in layers))


_SIZES: Mapping[int, tuple[int, ...]] = {1: (0,), 2: (1, 0), 3: (2, 1, 0), 4: (2, 11, 1, 0)}
"""The keys of a shape's sizes, from the outermost dimension on, by how many there are."""


def _settings_of(shape: Shape) -> dict[int, str]:
    """Return the settings of a layer of kind Input or Reshape."""
    return dict(sorted(zip(_SIZES[len(shape)], map(str, shape), strict=True)))


def _renamed(layer: NcnnLayer, names: Mapping[str, str]) -> NcnnLayer:
    inputs, outputs = (tuple(names.get(name, name) for name in side) for side in (layer.inputs, layer.outputs))
    return replace(layer, inputs=inputs, outputs=outputs)


def _with_shape(layer: NcnnLayer, shapes: Mapping[str, Shape]) -> NcnnLayer:
    if layer.kind != "Input":
        return layer
    (name,) = layer.outputs
    return replace(layer, name=name, settings=_settings_of(shapes[name]))


def _reshape(before: str, after: str, shape: Shape) -> NcnnLayer:
    return NcnnLayer("Reshape", f"{after}.shape", (before,), (after,), _settings_of(shape))


def _check_graph(layers: Sequence[NcnnLayer]) -> None:
    made: set[str] = set()
    for layer in layers:
        check_layer(layer)
        # In order, so that nothing waits for itself.
        missing = next((name for name in layer.inputs if name not in made), None)
        twice = next((name for name in layer.outputs if name in made), None)
        if missing or twice:
            raise ValueError(f"blob {missing or twice} is {'never made' if missing else 'made twice'}")
        made.update(layer.outputs)
    # Whoever takes a blob first may write over it.
    taken = Counter(name for layer in layers for name in layer.inputs)
    shared = next((name for name, count in taken.items() if count > 1), None)
    if shared is not None:
        raise ValueError(f"blob {shared} is taken by several layers")


def _cut(layers: Sequence[NcnnLayer], weights: bytes) -> Iterator[bytes]:
    start = 0
    for layer in layers:
        end = start
        for count, typed in weights_of(layer):
            end = _after(layer, weights, end, count, typed)
        yield weights[start:end]
        start = end
    if start != len(weights):
        raise ValueError(f"the weights have {len(weights)} bytes, and the graph has {start}")


def _after(layer: NcnnLayer, weights: bytes, start: int, count: int, typed: bool) -> int:
    """Return where so many numbers end."""
    if count < 0:
        raise ValueError(f"layer {layer.name}: {count} weights")
    size = 4
    if typed:
        flag = int.from_bytes(weights[start : start + 4], "little")
        if flag not in (0, _HALF):
            raise ValueError(f"layer {layer.name}: its weights are of an unknown type")
        start, size = start + 4, 2 if flag == _HALF else 4
    end = start + -(-count * size // 4) * 4
    if end > len(weights):
        raise ValueError(f"the weights have {len(weights)} bytes, and layer {layer.name} reaches {end}")
    return end
