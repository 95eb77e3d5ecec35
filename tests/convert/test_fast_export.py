"""Modules that the quick export does not know; what it makes of the others is compared in `test_onnx`."""

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nasdeploy.convert import quick_onnx
from nasdeploy.core.plan import TensorType


class Computing(nn.Module):
    """A function of an input and some layers."""

    def __init__(self, compute):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.compute = compute

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(self, x)


def used_twice(module, x):
    y = module.conv(x)
    return F.relu(y) + module.norm(y)


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (lambda m, x: torch.softmax(m.conv(x), 1), r"ONNX: no operator is known for torch.softmax; extend"),
        (lambda m, x: torch.cat([m.conv(x)]), "for torch.cat"),
        (lambda m, x: m.conv(x).sum(dim=1), "for torch.Tensor.sum"),
        (lambda m, x: torch.softmax(input=x, dim=1), "for torch.softmax"),
        (
            lambda m, x: F.batch_norm(x, *torch.ones(4, 3), False, 0.1, 1e-5),
            "normalisation is known after a convolution",
        ),
        (lambda m, x: F.adaptive_avg_pool2d(m.conv(x), 2), "of adaptive pooling only the mean of all"),
        (lambda m, x: m.conv(x).flatten(2), "of flattening only all but the batch"),
        (lambda m, x: m.norm(m.conv(x)), "normalisation is known after a convolution without bias only"),
        (used_twice, "normalisation is known after a convolution without bias only"),
    ],
)
def test_what_is_not_known_is_named(compute, message):
    with pytest.raises(NotImplementedError, match=message):
        quick_onnx(Computing(compute), [TensorType((3, 8, 8))], 2)


def test_a_weight_is_no_step_of_the_computation():
    """What is computed from weights alone is a weight."""
    module = Computing(lambda m, x: F.conv2d(x, torch.softmax(m.conv.weight, 0)))
    model = onnx.load_from_string(quick_onnx(module, [TensorType((3, 8, 8))], 2))
    assert [node.op_type for node in model.graph.node] == ["Conv"]


def test_convolutions_pad_by_themselves_unless_something_else_takes_what_was_padded():
    def padded(m, x):
        return F.conv2d(F.pad(x, (0, 1, 2, 3)), m.conv.weight, None, 2)

    model = onnx.load_from_string(quick_onnx(Computing(padded), [TensorType((3, 8, 8))], 2))
    (node,) = model.graph.node
    assert {a.name: list(a.ints) for a in node.attribute if a.name in ("pads", "strides")} == {
        "pads": [2, 0, 3, 1],
        "strides": [2, 2],
    }
    assert len(model.graph.initializer) == 1

    def taken_twice(m, x):
        x = F.pad(x, (0, 1, 0, 1))
        return F.conv2d(x, m.conv.weight, None, 1, 1).add(F.relu(x)[:, 0].reshape(2, 1, 9, 9))

    model = onnx.load_from_string(quick_onnx(Computing(taken_twice), [TensorType((3, 8, 8))], 2))
    assert [node.op_type for node in model.graph.node].count("Pad") == 1
    onnx.checker.check_model(model, full_check=True)


def test_what_depends_on_the_input_is_not_computed():
    """It would take half a minute, and 4 GB for each tensor."""
    module = Computing(lambda m, x: F.relu(m.norm(m.conv_of_norm(x))))
    module.conv_of_norm = nn.Conv2d(3, 4, 3, bias=False)
    model = onnx.load_from_string(quick_onnx(module, [TensorType((3, 1 << 14, 1 << 14))], 1))
    assert [node.op_type for node in model.graph.node] == ["Conv", "Relu"]
    sides = [place.dim_value for place in model.graph.output[0].type.tensor_type.shape.dim]
    assert sides == [1, 4, (1 << 14) - 2, (1 << 14) - 2]
