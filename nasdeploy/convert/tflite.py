"""ONNX of this package as `.tflite` files, operator by operator, with the operators that litert-torch has for them.

That converter takes seconds for a block, most of a minute for a network, and a gigabyte of packages: too much for the
hundreds of blocks of a table, and what is delivered is to be what was measured.
"""

from collections.abc import Mapping, Sequence

from onnx import NodeProto, helper, load_from_string
from onnx.shape_inference import infer_shapes

from nasdeploy.convert.tflite_operators import WRITERS
from nasdeploy.convert.tflite_translation import TO_LAST, Translation, UnknownOperator, Value
from nasdeploy.runtimes.runtime import Array


def to_tflite(
    model: bytes,
    *,
    half: bool = False,
    inside: bool = False,
    names: tuple[str, str] | None = None,
    notes: Mapping[str, bytes] | None = None,
) -> bytes:
    """Return an ONNX model of fixed shapes as a file with the same names of inputs and outputs, or, for one of each,
    with these `names`.

    `half`: weights in fp16, and it may be computed so. `inside`: inputs and outputs that are images are channels-last,
    as between the blocks of a network, where none is turned round. `notes` are its metadata. Raises `UnknownOperator`.
    """
    translation = Translation(infer_shapes(load_from_string(model)), half)
    inputs, outputs = _translated(translation, inside)
    if names is not None:
        inputs, outputs = (
            dict.fromkeys([name], *side.values()) for name, side in zip(names, (inputs, outputs), strict=True)
        )
    return translation.graph.packed(inputs, outputs, notes or {})


def _translated(t: Translation, inside: bool) -> tuple[dict[str, int], dict[str, int]]:
    """Write all operators; return inputs and outputs by name."""
    inputs = {}
    for given in t.onnx.input:
        kind = given.type.tensor_type
        shape = tuple(d.dim_value for d in kind.shape.dim)
        last = inside and len(shape) == 4
        if last:
            shape = tuple(shape[axis] for axis in TO_LAST)
        inputs[given.name] = t.graph.tensor(shape, helper.tensor_dtype_to_np_dtype(kind.elem_type), given.name)
        t.values[given.name] = Value(inputs[given.name], shape, last)
    for node in with_gelu(t.onnx.node, t.weights, t.uses):
        if node.op_type not in WRITERS:
            raise UnknownOperator(f"no operator of LiteRT is known for {node.op_type} ({node.name})")
        t.values[node.output[0]] = WRITERS[node.op_type](t, node)
    outputs = {}
    for result in t.onnx.output:
        value = t.values[result.name]
        outputs[result.name] = (value if inside else t.first(value)).index
    return inputs, outputs


def with_gelu(nodes: Sequence[NodeProto], weights: Mapping[str, Array], uses: Mapping[str, int]) -> list[NodeProto]:
    """Return the nodes with one of type Gelu in place of the five that ONNX writes: LiteRT has no error function."""
    made, gone = {node.output[0]: node for node in nodes}, set()
    gelus: dict[str, NodeProto] = {}
    for product in nodes:
        chain, at = [product], product.input[-1]
        for kind in ("Mul", "Add", "Erf", "Div"):
            node = made.get(at)
            if product.op_type != "Mul" or node is None or node.op_type != kind or uses[at] != 1:
                break
            chain.append(node)
            at = next(name for name in node.input if name not in weights)
        else:
            if at == product.input[0]:
                gone |= {node.output[0] for node in chain[1:]}
                gelus[product.output[0]] = helper.make_node("Gelu", [at], [product.output[0]], product.name)
    return [gelus.get(node.output[0], node) for node in nodes if node.output[0] not in gone]
