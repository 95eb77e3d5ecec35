"""ONNX of a module that is only measured: its operations are written down while it computes.

PyTorch's exporter takes 1 s for a block and 5 s for a network: too long for the hundreds of blocks and dozens of
networks behind a latency table. This one takes milliseconds, since of most results it computes the shape alone. It
knows the functions that block families are made of and gives the deliverable's operators for them, with batch
normalisation folded into convolutions: outputs and latency are the deliverable's.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils.weak import WeakTensorKeyDictionary

from nasdeploy.convert.versions import OPSET, lowest
from nasdeploy.core.plan import TensorType
from nasdeploy.runtimes.runtime import VALUES

_EXTEND = "extend nasdeploy/convert/fast_export.py"
_Size = int | tuple[int, int]
"""The stride or padding of both directions, or of each."""


def quick_onnx(module: nn.Module, inputs: Sequence[TensorType], batch: int) -> bytes:
    """Return a model to measure: `module` for inputs of these types and a fixed batch, in evaluation mode.

    What the module does must not depend on the numbers that it computes, which are not the right ones. Raises
    `NotImplementedError` for a module that computes with a function that is not known here.
    """
    device = next(module.parameters()).device
    types = {f"input.{number}": tensor for number, tensor in enumerate(inputs)}
    given = {name: _zeros(getattr(torch, each.dtype), device, batch, *each.shape) for name, each in types.items()}
    recorder = _Recorder(given)
    with torch.no_grad(), recorder:
        found = module.eval()(*given.values())
    results = found if isinstance(found, tuple) else (found,)
    recorder.fold_pads({recorder.name_of(result) for result in results})
    graph = helper.make_graph(
        list(recorder.nodes.values()),
        "measured",
        [_value(name, tensor) for name, tensor in given.items()],
        [_value(recorder.name_of(result), result) for result in results],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    # ONNX's helpers would copy the weights three more times.
    for name, weight in recorder.weights.items():
        kept = model.graph.initializer.add(name=name, data_type=_TYPES[weight.dtype], dims=weight.shape)
        kept.raw_data = weight.numpy(force=True).tobytes()
    lowest(model)
    state_values(model, types)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def example(tensor: TensorType, batch: int, device: torch.device) -> Tensor:
    """Return zeros of a type, which are also integers of any range."""
    return torch.zeros(batch, *tensor.shape, dtype=getattr(torch, tensor.dtype), device=device)


def _zeros(dtype: torch.dtype, device: torch.device, *shape: int) -> Tensor:
    """Return zeros that are one number in memory, whatever their shape."""
    return torch.zeros((), dtype=dtype, device=device).expand(shape)


def state_values(model: ModelProto, inputs: Mapping[str, TensorType]) -> None:
    """State how many values a model's integer inputs have, which ONNX's types do not: whoever times it has to know."""
    for name, tensor in inputs.items():
        if tensor.values is not None:
            model.metadata_props.add(key=f"{VALUES}{name}", value=str(tensor.values))


_TYPES = {torch.float32: TensorProto.FLOAT, torch.int64: TensorProto.INT64}


def _value(name: str, tensor: Tensor) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, _TYPES[tensor.dtype], list(tensor.shape))


class _Recorder(TorchFunctionMode):
    """Sees each function of PyTorch that is called, and writes down those of what was computed from the inputs."""

    def __init__(self, inputs: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.nodes: dict[str, NodeProto] = {}
        """Return the nodes by the name of their output."""
        self.weights: dict[str, Tensor] = {}
        self.taken: set[str] = set()
        """Names that some operator takes."""
        self._names, self._shared = WeakTensorKeyDictionary(), WeakTensorKeyDictionary()
        for name, tensor in inputs.items():
            self._names[tensor] = name

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run a function as PyTorch does, or return a tensor as large.

        Raises `NotImplementedError` for a function that is not known here.
        """
        kwargs = kwargs or {}
        if not any(each in self._names for each in _tensors((*args, *kwargs.values()))):
            return func(*args, **kwargs)
        result = _SHAPES.get(func, func)(*args, **kwargs)
        if isinstance(result, Tensor):
            if func not in _WRITERS:
                raise NotImplementedError(f"ONNX: no operator is known for {resolve_name(func)}; {_EXTEND}")
            self._names[result] = _WRITERS[func](self, *args, **kwargs)
        return result

    def name_of(self, tensor: Tensor) -> str:
        """Return the name of what was computed, or of a weight that is kept now."""
        if tensor in self._names:
            return str(self._names[tensor])
        name = f"weight.{len(self.weights)}"
        self.weights[name] = tensor
        return name

    def matrix(self, tensor: Tensor) -> str:
        """The name of a weight that may be taken several times, and is kept once."""
        if tensor in self._names:
            raise NotImplementedError(
                f"ONNX: a matrix that is computed from inputs is known in products only; {_EXTEND}"
            )
        if tensor not in self._shared:
            self._shared[tensor] = self.name_of(tensor)
        return str(self._shared[tensor])

    def node(self, operator: str, *inputs: Tensor | str, **attributes: Any) -> str:
        """Write down an operator; the name of its output."""
        names = [each if isinstance(each, str) else self.name_of(each) for each in inputs]
        self.taken.update(names)
        output = f"{operator}.{len(self.nodes)}"
        self.nodes[output] = helper.make_node(operator, names, [output], output, **attributes)
        return output

    def fold_pads(self, kept: Container[str]) -> None:
        """Have convolutions pad by themselves instead of taking what was padded, as PyTorch's exporter does."""
        for name, pad in list(self.nodes.items()):
            convs = _convs(self.nodes.values(), name) if pad.op_type == "Pad" and name not in kept else []
            for conv in convs:
                pads = next(each for each in conv.attribute if each.name == "pads")
                _, _, top, left, _, _, bottom, right = self.weights[pad.input[1]].tolist()
                pads.ints[:] = [own + more for own, more in zip(pads.ints, (top, left, bottom, right), strict=True)]
                conv.input[0] = pad.input[0]
            if convs:
                del self.nodes[name], self.weights[pad.input[1]]


def _convs(nodes: Iterable[NodeProto], taking: str) -> list[NodeProto]:
    """Return the nodes that take a tensor, if each is a convolution of it; else none."""
    found = [node for node in nodes if taking in node.input]
    return found if all(node.op_type == "Conv" and node.input[0] == taking for node in found) else []


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _both(size: _Size) -> list[int]:
    return [size, size] if isinstance(size, int) else list(size)


def _conv(
    recorder: _Recorder,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Size = 1,
    padding: _Size = 0,
    dilation: _Size = 1,
    groups: int = 1,
) -> str:
    inputs = (x, weight) if bias is None else (x, weight, bias)
    return recorder.node(
        "Conv",
        *inputs,
        kernel_shape=list(weight.shape[2:]),
        strides=_both(stride),
        pads=_both(padding) * 2,
        dilations=_both(dilation),
        group=groups,
    )


def _batch_norm(
    recorder: _Recorder,
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor,
    bias: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> str:
    """Folded into the convolution before it, whose output nothing else takes."""
    name = recorder.name_of(x)
    conv = recorder.nodes.get(name)
    if training or conv is None or conv.op_type != "Conv" or len(conv.input) != 2 or name in recorder.taken:
        raise NotImplementedError(f"ONNX: normalisation is known after a convolution without bias only; {_EXTEND}")
    scale = weight / torch.sqrt(var + eps)
    recorder.weights[conv.input[1]] = recorder.weights[conv.input[1]] * scale[:, None, None, None]
    conv.input.append(recorder.name_of(bias - mean * scale))
    return name


def _silu(recorder: _Recorder, x: Tensor, inplace: bool = False) -> str:
    return recorder.node("Mul", x, recorder.node("Sigmoid", x))


def _pad(recorder: _Recorder, x: Tensor, pad: Sequence[int], mode: str, value: float | None) -> str:
    """Write zeros around the last two dimensions of `[N, channels, H, W]`, given from the last on: before, after."""
    if mode != "constant" or value is not None:
        raise NotImplementedError(f"ONNX: of padding only that with zeros is known; {_EXTEND}")
    left, right, top, bottom = pad
    return recorder.node("Pad", x, torch.tensor([0, 0, top, left, 0, 0, bottom, right]))


def _avg_pool(
    recorder: _Recorder,
    x: Tensor,
    kernel_size: int,
    padding: int = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> str:
    return recorder.node(
        "AveragePool",
        x,
        kernel_shape=[kernel_size] * 2,
        strides=[kernel_size] * 2,
        pads=[padding] * 4,
        ceil_mode=int(ceil_mode),
        count_include_pad=int(count_include_pad),
    )


def _max_pool(
    recorder: _Recorder, x: Tensor, kernel_size: int, stride: int, padding: int, dilation: int = 1, **more: bool
) -> str:
    if dilation != 1 or any(more.values()):
        raise NotImplementedError(f"ONNX: of the largest only that of neighbours is known; {_EXTEND}")
    square = [kernel_size] * 2
    return recorder.node("MaxPool", x, kernel_shape=square, strides=[stride] * 2, pads=[padding] * 4, dilations=[1, 1])


def _global_pool(recorder: _Recorder, x: Tensor, output_size: int) -> str:
    if output_size != 1:
        raise NotImplementedError(f"ONNX: of adaptive pooling only the mean of all is known; {_EXTEND}")
    return recorder.node("ReduceMean", x, torch.tensor([-1, -2]), keepdims=1)


def _flatten(recorder: _Recorder, x: Tensor, start: int) -> str:
    if start != 1:
        raise NotImplementedError(f"ONNX: of flattening only all but the batch is known; {_EXTEND}")
    return recorder.node("Reshape", x, torch.tensor([-1, x[0].numel()]), allowzero=1)


def _linear(recorder: _Recorder, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> str:
    """One operator for rows of numbers, a product and a sum for anything else, as PyTorch's exporter has them."""
    if x.ndim == 2:
        inputs = (x, recorder.matrix(weight)) if bias is None else (x, recorder.matrix(weight), bias)
        return recorder.node("Gemm", *inputs, transB=1)
    product = recorder.node("MatMul", x, weight.t().contiguous())
    return product if bias is None else recorder.node("Add", product, bias)


def _layer_norm(recorder: _Recorder, x: Tensor, shape: Sequence[int], weight: Tensor, bias: Tensor, eps: float) -> str:
    return recorder.node("LayerNormalization", x, weight, bias, axis=-len(shape), epsilon=eps)


def _softmax(recorder: _Recorder, x: Tensor, dim: int, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> str:
    return recorder.node("Softmax", x, axis=dim)


def _gelu(recorder: _Recorder, x: Tensor, approximate: str = "none") -> str:
    if approximate != "none":
        raise NotImplementedError(f"ONNX: of GELU only the exact one is known; {_EXTEND}")
    error = recorder.node("Erf", recorder.node("Div", x, torch.tensor(2.0).sqrt()))
    half = recorder.node("Mul", torch.tensor(0.5), recorder.node("Add", error, torch.tensor(1.0)))
    return recorder.node("Mul", x, half)


def _embedding(
    recorder: _Recorder,
    x: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    **of_gradients: Any,
) -> str:
    if max_norm is not None:
        raise NotImplementedError(f"ONNX: of embeddings only those without a largest norm are known; {_EXTEND}")
    return recorder.node("Gather", recorder.matrix(weight), x, axis=0)


def _item(recorder: _Recorder, x: Tensor, places: Any) -> str:
    """One place of a dimension, and all of those before it."""
    if not isinstance(places, tuple) or not isinstance(places[-1], int) or any(p != slice(None) for p in places[:-1]):
        raise NotImplementedError(f"ONNX: of a tensor's items only one place of a dimension is known; {_EXTEND}")
    return recorder.node("Gather", x, torch.tensor(places[-1]), axis=len(places) - 1)


def _transpose(recorder: _Recorder, x: Tensor, one: int, other: int) -> str:
    order = list(range(x.ndim))
    order[one], order[other] = order[other], order[one]
    return recorder.node("Transpose", x, perm=order)


def _product(recorder: _Recorder, x: Tensor, y: Tensor | float) -> str:
    return recorder.node("Mul", x, y if isinstance(y, Tensor) else torch.tensor(y, dtype=x.dtype))


def _shape_of_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Size = 1,
    padding: _Size = 0,
    dilation: _Size = 1,
    groups: int = 1,
) -> Tensor:
    every = zip(x.shape[2:], weight.shape[2:], _both(stride), _both(padding), _both(dilation), strict=True)
    sides = [(side + 2 * pad - step * (taps - 1) - 1) // apart + 1 for side, taps, apart, pad, step in every]
    return _zeros(x.dtype, x.device, len(x), len(weight), *sides)


def _same_shape(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x.view_as(x)


_SHAPES: Mapping[Any, Callable[..., Tensor]] = {
    F.conv2d: _shape_of_conv,
    **dict.fromkeys([F.batch_norm, F.silu, F.relu, F.relu6, F.hardswish, F.hardsigmoid, torch.sigmoid], _same_shape),
}
"""What is called in place of functions that take the most time, with their arguments: it returns as large a tensor."""

_WRITERS: Mapping[Any, Callable[..., str]] = {
    F.conv2d: _conv,
    F.batch_norm: _batch_norm,
    F.silu: _silu,
    F.relu: lambda recorder, x, inplace=False: recorder.node("Relu", x),
    F.relu6: lambda recorder, x, inplace=False: recorder.node("Clip", x, torch.tensor(0.0), torch.tensor(6.0)),
    F.hardswish: lambda recorder, x, inplace=False: recorder.node("HardSwish", x),
    F.hardsigmoid: lambda recorder, x, inplace=False: recorder.node("HardSigmoid", x, alpha=1 / 6, beta=0.5),
    torch.sigmoid: lambda recorder, x: recorder.node("Sigmoid", x),
    F.pad: _pad,
    F.avg_pool2d: _avg_pool,
    F.max_pool2d: _max_pool,
    F.adaptive_avg_pool2d: _global_pool,
    F.linear: _linear,
    F.layer_norm: _layer_norm,
    F.softmax: _softmax,
    F.gelu: _gelu,
    F.embedding: _embedding,
    torch.matmul: lambda recorder, x, y: recorder.node("MatMul", x, y),
    Tensor.transpose: _transpose,
    Tensor.reshape: lambda recorder, x, *shape: recorder.node("Reshape", x, torch.tensor(shape), allowzero=1),
    Tensor.mean: lambda recorder, x, dim: recorder.node("ReduceMean", x, torch.tensor([dim]), keepdims=0),
    Tensor.__getitem__: _item,
    Tensor.flatten: _flatten,
    Tensor.add: lambda recorder, x, y: recorder.node("Add", x, y),
    Tensor.mul: _product,
}
"""The operators by function, which is called with the same arguments after the recorder, the output's name."""
