"""From PyTorch modules to ONNX by PyTorch's exporter: the file that is delivered."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from onnx import ModelProto
from torch import nn

from nasdeploy.convert.fast_export import example, state_values
from nasdeploy.convert.versions import OPSET, lowest
from nasdeploy.core.errors import CheckFailed
from nasdeploy.core.plan import TensorType
from nasdeploy.core.progress import without_logs
from nasdeploy.nn.network import Network, NetworkPart


def to_onnx(
    network: Network,
    part: str | None = None,
    inputs: Sequence[str] = ("input",),
    outputs: Sequence[str] = ("logits",),
) -> bytes:
    """Return the deliverable of a part, by default of the only one: any batch, weights included.

    `inputs` and `outputs` are the names that it gives to those of the part, in the plan's order; the batch comes first
    in each. The network is exported, and left, in evaluation mode. Equal weights give equal bytes. Raises `CheckFailed`
    if the exporter did not keep to the operator version or to the dynamic batch.
    """
    exported = network.plan.only if part is None else network.plan.part(part)
    types = {name: tensor for name, (_, tensor) in zip(inputs, exported.inputs, strict=True)}
    batch = torch.export.Dim("batch")
    # With a batch of 1 the exporter would take the dimension for a constant.
    model = _exported(
        network.eval() if part is None else NetworkPart(network.eval(), part),
        list(types.values()),
        batch=2,
        input_names=list(types),
        output_names=list(outputs),
        dynamic_shapes=(tuple({0: batch} for _ in types),),
    )
    _check(model)
    _strip(model)
    lowest(model)
    state_values(model, types)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def fixed_onnx(module: nn.Module, inputs: Sequence[TensorType], batch: int) -> bytes:
    """Return any module for inputs of these types and a fixed batch, in evaluation mode: 5 to 15 s."""
    model = _exported(module, inputs, batch)
    lowest(model)
    state_values(model, {value.name: tensor for value, tensor in zip(model.graph.input, inputs, strict=True)})
    content: bytes = model.SerializeToString()
    return content


def _exported(module: nn.Module, inputs: Sequence[TensorType], batch: int, **names: Any) -> ModelProto:
    device = next(module.parameters()).device
    examples = tuple(example(tensor, batch, device) for tensor in inputs)
    with _silent():
        program = torch.onnx.export(
            module.eval(),
            examples,
            dynamo=True,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
            **names,
        )
    assert program is not None
    model: ModelProto = program.model_proto
    return model


@contextmanager
def _silent() -> Iterator[None]:
    """Leave out the exporter's remarks about itself."""
    with without_logs(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _check(model: ModelProto) -> None:
    versions = {entry.domain: entry.version for entry in model.opset_import}
    if versions != {"": OPSET}:
        raise CheckFailed(f"ONNX export: asked for opset {OPSET}, the exporter wrote {versions}; use another PyTorch")
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.shape.dim[0].dim_param != "batch":
            raise CheckFailed(f"ONNX export: the batch of {value.name} is not dynamic; use another PyTorch")


def _strip(model: ModelProto) -> None:
    """Leave out what the exporter notes about this machine: stack traces with the paths of source files."""
    graph = model.graph
    for item in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del item.metadata_props[:]
