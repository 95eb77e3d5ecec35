"""The versions that an ONNX file states: the lowest that hold its operators, so that older runtimes load it."""

from collections.abc import Iterator

from onnx import GraphProto, ModelProto, NodeProto, defs, helper, numpy_helper

OPSET = 18
"""Version of ONNX's operators in which models are made: PyTorch's exporter has no older one."""
NEWEST = 20
"""The newest in files of any version of nasdeploy."""
_ATTRIBUTED = 17
"""The last version in which the axes of a mean are an attribute, not an input."""
_OLDEST = 13
"""The first in which quantised weights have a scale for each channel."""


def lowest(model: ModelProto) -> None:
    """State the lowest opset and IR version in which the model's operators are the ones that they are now.

    An operator keeps its definition, which by ONNX's tables is the lower opset's. Only means are written anew,
    with their axes as an attribute. Domains that no operator is of are left out.
    """
    nodes = list(_nodes(model.graph))
    versions = {entry.domain: entry.version for entry in model.opset_import}
    means = [node for node in nodes if node.op_type == "ReduceMean" and len(node.input) == 2]
    others = [node for node in nodes if node not in means and not node.domain]
    needed = max([_OLDEST, *(_since(node, versions[""]) for node in others)])
    if needed <= _ATTRIBUTED and _with_attributes(model.graph, means):
        versions[""] = needed
    else:
        versions[""] = max([needed, *(_since(node, versions[""]) for node in means)])
    used = {node.domain for node in nodes}
    del model.opset_import[:]
    model.opset_import.extend(
        helper.make_opsetid(domain, version) for domain, version in versions.items() if domain in used
    )
    model.ir_version = helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True)


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Yield the nodes of a graph and of its branches."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _since(node: NodeProto, opset: int) -> int:
    """Return the first opset with the operator as it is in this one."""
    return int(defs.get_schema(node.op_type, opset).since_version)


def _with_attributes(graph: GraphProto, means: list[NodeProto]) -> bool:
    """Write the axes of means as attributes; False, and nothing is changed, if some are computed."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    if any(node.input[1] not in weights for node in means):
        return False
    for node in means:
        axes = numpy_helper.to_array(weights[node.input[1]]).reshape(-1).tolist()
        del node.input[1:]
        kept = [attribute for attribute in node.attribute if attribute.name == "keepdims"]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("axes", axes)])
    used = {name for node in _nodes(graph) for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    return True
