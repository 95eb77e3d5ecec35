"""Small models in the form that a runtime opens."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import nn

from nasdeploy.core.plan import TensorType
from nasdeploy.runtimes.runtime import Form, Model, TorchModel

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


def small(form: Form) -> Model:
    """The same for any batch."""
    return small_onnx("batch") if form == "onnx" else TorchModel(_Small(), {"input": TensorType((6,))})


def relu_of(form: Form, *shape: int) -> Model:
    """An operator alone, for one input of that shape."""
    if form == "module":
        return TorchModel(nn.ReLU(), {"input": TensorType(shape[1:])})
    return onnx_bytes([helper.make_node("Relu", ["input"], ["y"])], {"input": shape}, {"y": shape})


def matmul_chain(form: Form, size: int, length: int) -> Model:
    """So many products with one square matrix: enough work to be shared by threads."""
    weight = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32) / size
    if form == "module":
        layer = nn.Linear(size, size, bias=False)
        layer.weight = nn.Parameter(torch.from_numpy(weight.T.copy()))
        return TorchModel(nn.Sequential(*[layer] * length), {"input": TensorType((size, size))})
    nodes = [helper.make_node("MatMul", [f"x{number}", "weight"], [f"x{number + 1}"]) for number in range(length)]
    shape = (1, size, size)
    return onnx_bytes(nodes, {"x0": shape}, {f"x{length}": shape}, [numpy_helper.from_array(weight, "weight")])


def wide(form: Form) -> Model:
    """A product with a matrix of 16 MB."""
    weight = np.full((1024, 4096), 0.5, dtype=np.float32)
    if form == "module":
        layer = nn.Linear(1, 1, bias=False)
        layer.weight = nn.Parameter(torch.from_numpy(weight.T))
        return TorchModel(layer, {"input": TensorType((1024,))})
    node = helper.make_node("MatMul", ["input", "weight"], ["y"])
    return onnx_bytes([node], {"input": (1, 1024)}, {"y": (1, 4096)}, [numpy_helper.from_array(weight, "weight")])


def unknown_operator() -> bytes:
    """An operator that no runtime has."""
    node = helper.make_node("Unheard", ["input"], ["y"], domain="nowhere", name="odd")
    return onnx_bytes([node], {"input": (1, 6)}, {"y": (1, 6)}, domains=("nowhere",))


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
