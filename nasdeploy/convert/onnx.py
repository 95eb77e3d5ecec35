"""From PyTorch modules to the ONNX file that is delivered."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from onnx import ModelProto

from nasdeploy.errors import CheckFailed
from nasdeploy.nn.network import Network

OPSET = 20
"""Version of ONNX's operators in every file."""


def to_onnx(network: Network) -> bytes:
    """The deliverable: `input` `[batch, 3, side, side]` to `logits` `[batch, classes]`, any batch, weights included.

    The network is exported, and left, in evaluation mode. Equal weights give equal bytes. Raises `CheckFailed` if the
    exporter did not keep to the operator version or to the dynamic batch.
    """
    ((_, shape),) = network.plan.inputs
    # With a batch of 1 the exporter would take the dimension for a constant.
    example = torch.zeros(2, *shape, device=next(network.parameters()).device)
    with _silent():
        program = torch.onnx.export(
            network.eval(),
            (example,),
            dynamo=True,
            input_names=["input"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model: ModelProto = program.model_proto
    _check(model)
    _strip(model)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


@contextmanager
def _silent() -> Iterator[None]:
    """Without the exporter's remarks about itself."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


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
