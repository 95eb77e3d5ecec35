"""The layers of ncnn's graphs: what their lines say, which kinds there are, and how many weights each has.

A line is the kind of a layer, its name, how many blobs it takes and gives, these by name, and settings `key=value`; a
key of -23300 or below is that of a list, which begins with its length.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

MAGIC = "7767517"
_LISTS = -23300
"""The key of the list number 0; that of list 1 is one less."""
_KEYS, _LONGEST_NAME, _LONGEST_VALUE = 32, 255, 15
_NUMBER = re.compile(r"[-+]?(\d+|\d+\.\d*([eE][-+]?\d+)?|\.\d+([eE][-+]?\d+)?|\d+[eE][-+]?\d+)")
_WHOLE = re.compile(r"[-+]?\d+")
_SHAPE = re.compile(r'"(-?\d|\d[whdc])(,(-?\d|\d[whdc])){0,3}"')
"""A shape by those of blobs that a layer takes: `"0w,1h,-1"` is the first one's width, the second one's height, the
rest."""
LARGEST_SIZE = 1 << 24
"""The largest size, stride or border that a layer may have."""


@dataclass(frozen=True)
class NcnnLayer:
    """A layer of a graph, as its line says."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    settings: Mapping[int, str]
    """The values by key, as text; lists with their length and with keys below -23300."""

    def whole(self, key: int, otherwise: int = 0) -> int:
        """Return the whole number of a key; raises `ValueError` for a value that is none."""
        text = self.settings.get(key)
        if text is None:
            return otherwise
        if not _WHOLE.fullmatch(text):
            raise ValueError(f"layer {self.name}: setting {key} is {text}, and no whole number")
        return int(text)

    def positive(self, *keys: int, otherwise: int = 0) -> list[int]:
        """Return the whole numbers of these keys, of which one that is missing is the one before it, or `otherwise`.

        Raises `ValueError` for one that is not between 1 and some millions.
        """
        found = []
        for key in keys:
            otherwise = self.whole(key, otherwise)
            if not 1 <= otherwise <= LARGEST_SIZE:
                raise ValueError(f"layer {self.name}: setting {key} of {self.kind} is {otherwise}")
            found.append(otherwise)
        return found

    @property
    def line(self) -> str:
        """The layer as its line, without a line end."""
        settings = (f"{key}={value}" for key, value in self.settings.items())
        counts = (str(len(self.inputs)), str(len(self.outputs)))
        return " ".join((self.kind, self.name, *counts, *self.inputs, *self.outputs, *settings))


def layers_of(param: bytes) -> Iterator[NcnnLayer]:
    """Yield the layers of a graph's text; raises `ValueError`, in words, for what is none."""
    try:
        lines = param.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise ValueError("the graph is no text") from None
    if lines[0].strip() != MAGIC:
        raise ValueError("it does not begin as a graph of ncnn does")
    rows = [line.split() for line in lines[1:] if line.strip()]
    if not rows or len(rows[0]) != 2 or not all(map(str.isdigit, rows[0])):
        raise ValueError("the graph does not say how many layers it has")
    told, blobs = map(int, rows[0])
    if told != len(rows) - 1:
        raise ValueError(f"the graph has {len(rows) - 1} layers, and says {told}")
    found = 0
    for row in rows[1:]:
        layer = _layer(row)
        found += len(layer.outputs)
        yield layer
    if found != blobs:
        raise ValueError(f"the graph has {found} blobs, and says {blobs}")


def _layer(row: Sequence[str]) -> NcnnLayer:
    if len(row) < 4 or not (row[2].isdigit() and row[3].isdigit()):
        raise ValueError(f"the line of layer {row[1] if len(row) > 1 else row[0]:.40} is cut off")
    kind, name, *_ = row
    given, made = int(row[2]), int(row[3])
    blobs, settings = row[4 : 4 + given + made], row[4 + given + made :]
    if len(blobs) != given + made or any("=" in blob or len(blob) >= _LONGEST_NAME for blob in (kind, name, *blobs)):
        raise ValueError(f"the line of layer {name:.40} is damaged")
    values: dict[int, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        known = kind == "Reshape" and key == "6" and _SHAPE.fullmatch(value)
        if not equals or not _WHOLE.fullmatch(key) or not (known or _is_value(int(key), value)) or int(key) in values:
            raise ValueError(f"layer {name:.40}: setting {setting:.40} is damaged")
        values[int(key)] = value
    return NcnnLayer(kind, name, tuple(blobs[:given]), tuple(blobs[given:]), values)


def _is_value(key: int, text: str) -> bool:
    values = text.split(",")
    if any(len(value) > _LONGEST_VALUE or not _NUMBER.fullmatch(value) for value in values):
        return False
    if key > _LISTS:
        return 0 <= key < _KEYS and len(values) == 1
    return _LISTS - key < _KEYS and values[0] == str(len(values) - 1)


# -- the kinds

_ONE_TO_ONE = (
    "Clip Crop ExpandDims Flatten GELU HardSigmoid HardSwish Padding Permute Pooling ReLU Reduction "
    "Sigmoid Softmax Squeeze Swish UnaryOp Convolution ConvolutionDepthWise Embed InnerProduct LayerNorm"
)
_ANY = range(1, 1 << 16)
_BLOBS: Mapping[str, tuple[range, range]] = {
    **dict.fromkeys(_ONE_TO_ONE.split(), (range(1, 2), range(1, 2))),
    "Input": (range(1), range(1, 2)),
    "MemoryData": (range(1), range(1, 2)),
    "Reshape": (range(1, 3), range(1, 2)),
    "Split": (range(1, 2), _ANY),
    "Slice": (range(1, 2), _ANY),
    "Concat": (_ANY, range(1, 2)),
    "BinaryOp": (range(1, 3), range(1, 2)),
    "MatMul": (range(2, 3), range(1, 2)),
    "Gemm": (range(1, 4), range(1, 2)),
}
"""How many blobs the layers of each kind take and give. These are the kinds that networks are converted to."""


def is_known(kind: str) -> bool:
    """Return whether layers of this kind are among those that networks are converted to."""
    return kind in _BLOBS


def check_layer(layer: NcnnLayer) -> None:
    """Raise `ValueError`, in words, for a layer of a kind that is unknown, or that takes, gives or says too little."""
    if not is_known(layer.kind):
        raise ValueError(f"layer {layer.name:.40} is a {layer.kind:.40}, which is unknown")
    given, results = _BLOBS[layer.kind]
    if len(layer.inputs) not in given or len(layer.outputs) not in results:
        counts = f"{len(layer.inputs)} blobs and gives {len(layer.outputs)}"
        raise ValueError(f"layer {layer.name}: {layer.kind} takes {counts}")
    for keys, otherwise in _POSITIVE.get(layer.kind, ()):
        layer.positive(*keys, otherwise=otherwise)


_KERNEL = (1, 11)
_STEPS = (((2, 12), 1), ((3, 13), 1))
_POSITIVE: Mapping[str, Sequence[tuple[tuple[int, ...], int]]] = {
    "Convolution": (((0,), 0), (_KERNEL, 0), *_STEPS, ((6,), 0)),
    "ConvolutionDepthWise": (((0,), 0), (_KERNEL, 0), *_STEPS, ((6,), 0), ((7,), 1)),
    "InnerProduct": (((0,), 0), ((2,), 0)),
    "Embed": (((0,), 0), ((1,), 0), ((3,), 0)),
    "Pooling": (((2, 12), 1),),
}
"""Keys of settings that have to be positive, and what they are unless said; later keys of one are as those before."""


# -- the weights

WeightSize = tuple[int, bool]
"""How many numbers there are, and whether a word before them says their type; else they are float32."""


def weights_of(layer: NcnnLayer) -> Sequence[WeightSize]:
    """Return how many weights a layer has, in their order in the file; raises `ValueError` if its settings disagree."""
    return _WEIGHTS[layer.kind](layer) if layer.kind in _WEIGHTS else ()


def _of_convolution(layer: NcnnLayer) -> Sequence[WeightSize]:
    (outputs,), kernel, groups = layer.positive(0), layer.positive(*_KERNEL), layer.whole(7, 1)
    if layer.whole(8) or layer.whole(19):
        raise ValueError(f"layer {layer.name}: weights in int8, or computed ones, are unknown")
    count = layer.whole(6)
    if outputs % groups or count % (outputs * prod(kernel)):
        raise ValueError(f"layer {layer.name}: {count} weights for {outputs} outputs")
    return (count, True), (outputs * bool(layer.whole(5)), False)


def _of_product(layer: NcnnLayer) -> Sequence[WeightSize]:
    outputs, count = layer.whole(0), layer.whole(2)
    if layer.whole(8) or count % outputs:
        raise ValueError(f"layer {layer.name}: {count} weights for {outputs} outputs, or in int8")
    return (count, True), (outputs * bool(layer.whole(1)), False)


def _of_embedding(layer: NcnnLayer) -> Sequence[WeightSize]:
    outputs, values, count = layer.whole(0), layer.whole(1), layer.whole(3)
    if layer.whole(18) or count != outputs * values:
        raise ValueError(f"layer {layer.name}: {count} weights for {values} values of {outputs}, or in int8")
    return (count, True), (outputs * bool(layer.whole(2)), False)


def _of_matrices(layer: NcnnLayer) -> Sequence[WeightSize]:
    if layer.whole(18):
        raise ValueError(f"layer {layer.name}: weights in int8 are unknown")
    rows, columns, between = (layer.whole(key) for key in (7, 8, 9))
    added = {-1: 0, 0: 1, 1: rows, 2: rows, 3: rows * columns, 4: columns}
    sizes = {4: rows * between, 5: columns * between, 6: added.get(layer.whole(10), -1)}
    found = [(size, True) for key, size in sizes.items() if layer.whole(key) and (key, size) != (6, 0)]
    if any(size <= 0 for size, _ in found):
        raise ValueError(f"layer {layer.name}: matrices of {rows} x {between} and {between} x {columns}")
    return found


def _of_constant(layer: NcnnLayer) -> Sequence[WeightSize]:
    sizes = [layer.whole(key) for key in (0, 1, 11, 2)]
    if not sizes[0] or min(sizes) < 0:
        raise ValueError(f"layer {layer.name}: a constant of sizes {sizes}")
    return ((prod(size or 1 for size in sizes), layer.whole(21, 1) == 0),)


def _of_normalisation(layer: NcnnLayer) -> Sequence[WeightSize]:
    (size,) = layer.positive(0)
    return ((size, False), (size, False)) if layer.whole(2, 1) else ()


_WEIGHTS: Mapping[str, Callable[[NcnnLayer], Sequence[WeightSize]]] = {
    "Convolution": _of_convolution,
    "ConvolutionDepthWise": _of_convolution,
    "InnerProduct": _of_product,
    "Embed": _of_embedding,
    "Gemm": _of_matrices,
    "MemoryData": _of_constant,
    "LayerNorm": _of_normalisation,
}
"""How many weights the layers of a kind have, in their order in the file. Other kinds have none."""
