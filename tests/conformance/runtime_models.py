"""Small models in the form that a runtime opens."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import flatbuffers
import numpy as np
import torch
from ai_edge_litert import schema_py_generated as schema
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import nn

from nasdeploy.convert.mnn import to_mnn
from nasdeploy.convert.tflite import to_tflite
from nasdeploy.core.plan import TensorType
from nasdeploy.runtimes.mnn_file import FlatTable
from nasdeploy.runtimes.ncnn import packed, read
from nasdeploy.runtimes.ncnn_files import NcnnModel
from nasdeploy.runtimes.runtime import Form, Model, TorchModel

FILES: tuple[Form, ...] = ("onnx", "ncnn", "mnn", "tflite")
"""The forms of files that models are measured in."""

WEIGHT = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
BIAS = np.array([0.5, -0.5, 0.0, 1.0], dtype=np.float32)


class _Small(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = torch.relu(x @ torch.from_numpy(WEIGHT) + torch.from_numpy(BIAS))
        return logits, logits + logits


def small_onnx(batch: int | str) -> bytes:
    """`logits = relu(input @ WEIGHT + BIAS)` and `doubled = logits + logits`."""
    nodes = [
        helper.make_node("Gemm", ["input", "weight", "bias"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["logits"]),
        helper.make_node("Add", ["logits", "logits"], ["doubled"]),
    ]
    weights = [numpy_helper.from_array(WEIGHT, "weight"), numpy_helper.from_array(BIAS, "bias")]
    return onnx_bytes(nodes, {"input": [batch, 6]}, {name: [batch, 4] for name in ("logits", "doubled")}, weights)


def small(form: Form, batch: int = 1) -> Model:
    """The same for any batch, or for one where a file has its own."""
    match form:
        case "onnx":
            return small_onnx("batch")
        case "mnn":
            return mnn_bytes(small_onnx("batch"))
        case "ncnn":
            return _small_ncnn()
        case "tflite":
            return to_tflite(small_onnx(batch))
        case _:
            return TorchModel(_Small(), {"input": TensorType((6,))})


def small_bytes(form: Form) -> bytes:
    """The same as a file's content."""
    model = small(form)
    assert isinstance(model, bytes)
    return model


def written(form: Form, content: bytes, folder: Path) -> Path:
    """Write a file with this content, whole or not, and any that belongs beside it; what is named to open it."""
    path = folder / f"model.{'param' if form == 'ncnn' else form}"
    if form == "ncnn":
        whole = read(small_bytes(form))
        path.with_suffix(".bin").write_bytes(whole.bin)
        content = whole.param if content == small_bytes(form) else content
    path.write_bytes(content)
    return path


@cache
def mnn_bytes(onnx: bytes) -> bytes:
    """The same model as MNN's file."""
    return to_mnn(onnx, half=False)


def ncnn_bytes(*layers: str, weights: Sequence[np.ndarray] = ()) -> bytes:
    """A model of these lines; `weights` are those of layers with a type before them, and biases without one."""
    blobs = sum(int(layer.split()[3]) for layer in layers)
    param = "".join(f"{line}\n" for line in ("7767517", f"{len(layers)} {blobs}", *layers))
    # What has two dimensions is a matrix, and has its type before it: 0 for float32.
    parts = [bytes(4) * (each.ndim > 1) + each.astype("<f4").tobytes() for each in weights]
    return packed(NcnnModel.parse(param.encode(), b"".join(parts)))


def _small_ncnn() -> bytes:
    return ncnn_bytes(
        "Input input 0 1 input 0=6",
        # With a bias, and ReLU after it.
        "InnerProduct sum 1 1 input sum 0=4 1=1 2=24 9=1",
        "Split split 1 3 sum logits one other",
        "BinaryOp double 2 1 one other doubled 0=0",
        weights=[WEIGHT.T, BIAS],
    )


def relu_of(form: Form, *shape: int) -> Model:
    """An operator alone, for one input of that shape."""
    if form == "module":
        return TorchModel(nn.ReLU(), {"input": TensorType(shape[1:])})
    if form == "ncnn":
        _, channels, height, width = shape
        return ncnn_bytes(f"Input input 0 1 input 0={width} 1={height} 2={channels}", "ReLU relu 1 1 input y")
    return _as(form, onnx_bytes([helper.make_node("Relu", ["input"], ["y"])], {"input": shape}, {"y": shape}))


def matmul_chain(form: Form, size: int, length: int) -> Model:
    """So many products with one square matrix: enough work to be shared by threads."""
    weight = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32) / size
    if form == "module":
        layer = nn.Linear(size, size, bias=False)
        layer.weight = nn.Parameter(torch.from_numpy(weight.T.copy()))
        return TorchModel(nn.Sequential(*[layer] * length), {"input": TensorType((size, size))})
    if form == "ncnn":
        products = [f"InnerProduct p{n} 1 1 x{n} x{n + 1} 0={size} 1=0 2={size * size}" for n in range(length)]
        return ncnn_bytes(f"Input x0 0 1 x0 0={size} 1={size}", *products, weights=[weight.T] * length)
    nodes = [helper.make_node("MatMul", [f"x{number}", "weight"], [f"x{number + 1}"]) for number in range(length)]
    shape = (1, size, size)
    weights = [numpy_helper.from_array(weight, "weight")]
    return _as(form, onnx_bytes(nodes, {"x0": shape}, {f"x{length}": shape}, weights))


def wide(form: Form) -> Model:
    """A product with a matrix of 16 MB."""
    weight = np.full((1024, 4096), 0.5, dtype=np.float32)
    if form == "module":
        layer = nn.Linear(1, 1, bias=False)
        layer.weight = nn.Parameter(torch.from_numpy(weight.T))
        return TorchModel(layer, {"input": TensorType((1024,))})
    if form == "ncnn":
        product = f"InnerProduct product 1 1 input y 0=4096 1=0 2={weight.size}"
        return ncnn_bytes("Input input 0 1 input 0=1024", product, weights=[weight.T])
    node = helper.make_node("MatMul", ["input", "weight"], ["y"])
    weights = [numpy_helper.from_array(weight, "weight")]
    return _as(form, onnx_bytes([node], {"input": (1, 1024)}, {"y": (1, 4096)}, weights))


def _as(form: Form, onnx: bytes) -> bytes:
    """ONNX, or what it becomes for MNN or LiteRT."""
    if form == "mnn":
        return mnn_bytes(onnx)
    return to_tflite(onnx) if form == "tflite" else onnx


def unknown_operator(form: Form) -> bytes:
    """An operator that no runtime has."""
    if form == "ncnn":
        return _small_of_unknown_layer()
    if form == "mnn":
        return _mnn_of_unknown_operator()
    if form == "tflite":
        return _small_of_custom_operator()
    node = helper.make_node("Unheard", ["input"], ["y"], domain="nowhere", name="odd")
    return onnx_bytes([node], {"input": (1, 6)}, {"y": (1, 6)}, domains=("nowhere",))


def _mnn_of_unknown_operator() -> bytes:
    relu = onnx_bytes([helper.make_node("Relu", ["input"], ["Unheard"])], {"input": (1, 6)}, {"Unheard": (1, 6)})
    content = bytearray(mnn_bytes(relu))
    *_, last = FlatTable.root(bytes(content)).tables(3)
    content[last.place(5) : last.place(5) + 2] = b"\xe7\x03"
    return bytes(content)


def _small_of_unknown_layer() -> bytes:
    param = b"7767517\n2 2\nInput input 0 1 input 0=6\nUnheard odd 1 1 input y\n"
    return b"ncnn %d\n%s" % (len(param), param)


def _small_of_custom_operator() -> bytes:
    model = schema.ModelT.InitFromPackedBuf(to_tflite(small_onnx(1)))
    model.operatorCodes[0].builtinCode = model.operatorCodes[0].deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    model.operatorCodes[0].customCode = "Unheard"
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def onnx_bytes(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str]],
    weights: Sequence[TensorProto] = (),
    domains: Sequence[str] = (),
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        list(weights),
    )
    opsets = [helper.make_opsetid("", 20), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
