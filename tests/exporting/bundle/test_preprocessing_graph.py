"""Preprocessing inside the graph does what it does outside."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image

from nasdeploy.data.settings import Preprocessing
from nasdeploy.exporting.bundle.pictures import prepare
from nasdeploy.exporting.bundle.preprocessing_graph import embed

LEVEL = 1 / 255 / 0.224
"""One of the 256 levels of a channel, after normalisation."""


def nothing(side: int) -> bytes:
    """A model that gives back its input."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, side, side]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "nothing", value[:1], value[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def embedded(steps: Preprocessing) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(embed(nothing(steps.resolution), steps), providers=["CPUExecutionProvider"])


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# The last two sizes are those of pictures that Pillow shrinks vertically first.
SIZES = [(40, 31), (31, 40), (20, 20), (1, 1), (300, 7), (7, 300), (64, 64), (240, 320), (200, 60), (459, 176)]


@pytest.mark.parametrize(
    ("resize", "crop", "side"), [(37, 32, 32), (64, 64, 64), (64, 64, 48), (9, 8, 12), (146, 140, 160)]
)
def test_inputs_are_pillows_but_for_a_level_of_some_pixels(resize: int, crop: int, side: int) -> None:
    steps = Preprocessing(resize=resize, crop=crop, mean=(0.5, 0.4, 0.3), std=(0.229, 0.224, 0.225), resolution=side)
    session = embedded(steps)
    (image,) = session.get_inputs()
    assert (image.name, image.type, image.shape[3]) == ("image", "tensor(uint8)", 3)
    for number, size in enumerate(SIZES):
        pixels = noise(*size, seed=number)
        (found,) = session.run(None, {"image": pixels[np.newaxis]})
        distance = np.abs(found - prepare(Image.fromarray(pixels), steps.model_dump()))
        assert distance.max() <= 1.3 * LEVEL, size  # Rescaling overshoots a little.
        if crop == side:  # Else a level spreads over its neighbours.
            assert (distance > 1e-5).mean() <= 0.001, size


def test_a_batch_is_each_of_its_images() -> None:
    steps = Preprocessing(resize=9, crop=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resolution=12)
    session, pixels = embedded(steps), np.stack([noise(20, 30, seed) for seed in range(3)])
    (together,) = session.run(None, {"image": pixels})
    alone = [session.run(None, {"image": pixels[number : number + 1]})[0][0] for number in range(3)]
    np.testing.assert_array_equal(together, np.stack(alone))


def test_the_network_stays_as_it_is() -> None:
    steps = Preprocessing(resize=9, crop=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), resolution=8)
    model = onnx.load_from_string(embed(nothing(8), steps))
    assert [node.op_type for node in model.graph.node if node.output[0] == "y"] == ["Identity"]
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 16}
    assert embed(nothing(8), steps) == embed(nothing(8), steps)
