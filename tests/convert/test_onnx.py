"""Both ways to ONNX against PyTorch."""

import logging
import subprocess
import sys
import warnings

import numpy as np
import onnx
import pytest
import torch

from nasdeploy.convert import quick_onnx, to_onnx
from nasdeploy.core.errors import CheckFailed
from nasdeploy.core.plan import TensorType
from nasdeploy.latency.profile import randomise_norms
from nasdeploy.nn.network import Network, StaticBlock
from nasdeploy.runtimes import runtime_of
from nasdeploy.runtimes.device import load_device
from nasdeploy.spaces import load_space
from tests.exporting.converted import functions_read_once  # noqa: F401

CPU = load_device("cpu")
SPACE = load_space("digits", 10)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    found = Network(SPACE.plan(SPACE.smallest())).eval()
    randomise_norms(found)
    return found


@pytest.fixture(scope="module")
def file(network):
    return to_onnx(network)


def run(model, x):
    session = runtime_of(CPU).open(model, CPU)
    (name,) = session.inputs
    return session.run({name: x.numpy()})[0]


def images(batch, side):
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(batch))


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_deliverable_agrees_with_pytorch_at_any_batch(network, file, batch):
    x = images(batch, 8)
    with torch.no_grad():
        expected = network(x).numpy()
    np.testing.assert_allclose(run(file, x), expected, rtol=1e-4, atol=1e-5)


def test_deliverable_has_the_stated_interface(file):
    model = onnx.load_from_string(file)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 14)], "that of Reshape and Add"
    assert model.ir_version == 7
    (x,), (y,) = model.graph.input, model.graph.output
    assert (x.name, [d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim]) == ("input", ["batch", 3, 8, 8])
    assert (y.name, [d.dim_param or d.dim_value for d in y.type.tensor_type.shape.dim]) == ("logits", ["batch", 10])
    assert not {"BatchNormalization", "Identity", "Shape"} & {node.op_type for node in model.graph.node}


def test_deliverable_names_no_file_of_this_machine(file):
    assert b".py" not in file
    assert b"/nasdeploy/" not in file


@pytest.mark.slow
def test_equal_weights_give_equal_bytes(network, file):
    assert to_onnx(network) == file


def test_quick_model_gives_the_deliverables_outputs(network, file):
    for batch in (1, 3):
        x = images(batch, 8)
        np.testing.assert_allclose(
            run(quick_onnx(network, [TensorType((3, 8, 8))], batch), x), run(file, x), rtol=1e-4, atol=1e-5
        )


def test_quick_model_has_the_deliverables_operators(network, file):
    """What runtimes make of them, and so the latency, is then the same."""
    quick = quick_onnx(network, [TensorType((3, 8, 8))], 1)
    onnx.checker.check_model(onnx.load_from_string(quick), full_check=True)
    assert operators(quick) == operators(file)


def operators(model):
    """Each with its number of inputs and with what it computes by, which may be left out where it is the default."""
    found = []
    for node in onnx.load_from_string(model).graph.node:
        schema = onnx.defs.get_schema(node.op_type, 14)
        defaults = [each.default_value for each in schema.attributes.values() if each.default_value.name]
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in (*defaults, *node.attribute)}
        found.append((node.op_type, len(node.input), attributes))
    return found


@pytest.mark.parametrize("place", range(0, len(SPACE.distinct_blocks()), 29))
def test_quick_blocks_agree_with_pytorch(place):
    torch.manual_seed(place)
    block = list(SPACE.distinct_blocks().values())[place]
    module = StaticBlock(block).eval()
    randomise_norms(module)
    x = torch.randn(1, *block.inputs[0].shape)
    with torch.no_grad():
        expected = module(x).numpy()
    np.testing.assert_allclose(run(quick_onnx(module, block.inputs, 1), x), expected, rtol=1e-4, atol=1e-5)


def test_training_mode_is_left_for_evaluation():
    network = Network(SPACE.plan(SPACE.smallest())).train()
    randomise_norms(network)
    model = quick_onnx(network, [TensorType((3, 8, 8))], 1)
    assert not network.training
    with torch.no_grad():
        expected = network(images(1, 8)).numpy()
    np.testing.assert_allclose(run(model, images(1, 8)), expected, rtol=1e-4, atol=1e-5)


def test_channels_last_weights_are_the_same_weights(network):
    x = images(1, 8)
    before = run(quick_onnx(network, [TensorType((3, 8, 8))], 1), x)
    again = network.to(memory_format=torch.channels_last)
    np.testing.assert_allclose(run(quick_onnx(again, [TensorType((3, 8, 8))], 1), x), before, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_warnings_and_logging_are_as_before(network):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        to_onnx(network)
        warnings.warn("still heard", stacklevel=1)
    assert [str(item.message) for item in heard] == ["still heard"]
    assert logging.getLogger("anything").isEnabledFor(logging.WARNING)


@pytest.mark.slow
def test_nothing_is_printed():
    code = (
        "from nasdeploy.convert import quick_onnx, to_onnx; from nasdeploy.nn.network import Network;"
        "from nasdeploy.spaces import load_space; space = load_space('digits', 10);"
        "network = Network(space.plan(space.smallest())); to_onnx(network);"
        "quick_onnx(network, [network.plan.only.inputs[0][1]], 1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_another_operator_version_is_refused(network, monkeypatch):
    program = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda *a, **k: program(*a, **(k | {"opset_version": 19})))
    with pytest.raises(CheckFailed, match="asked for opset 18"):
        to_onnx(network)
