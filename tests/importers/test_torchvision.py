"""Networks of torchvision as grown spaces: what its own models compute and cost, and what is refused."""

import pytest
from torch import nn
from torchvision.models.efficientnet import EfficientNet, FusedMBConvConfig, MBConvConfig

from nasdeploy.core.errors import UserError
from nasdeploy.importers import IMPORTERS
from tests.importers.originals import difference, shapes_alone

TORCHVISION = IMPORTERS["torchvision"]


@pytest.mark.parametrize("name", ["efficientnet_b0", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small"])
def test_the_largest_network_is_the_original(name):
    assert difference(TORCHVISION, TORCHVISION.model(name), name, 64) <= 1e-5


def test_fused_blocks_with_and_without_an_expansion_are_the_originals():
    stages = [
        FusedMBConvConfig(1, 3, 1, 8, 8, 2),
        FusedMBConvConfig(4, 3, 2, 8, 16, 2),
        MBConvConfig(4, 3, 2, 16, 24, 2),
    ]
    model = EfficientNet(stages, dropout=0.1, num_classes=10)
    assert difference(TORCHVISION, model, "efficientnet_v2_s", 33) <= 1e-5


def test_the_mobile_networks_are_among_those_that_can_be_read():
    mobile = [name for name in TORCHVISION.names() if name.startswith(("efficientnet", "mnasnet", "mobilenet"))]
    assert len(mobile) >= 18


def test_a_classifier_may_have_other_classes():
    for name in ("mobilenet_v3_small", "mobilenet_v2"):
        with shapes_alone():
            model = TORCHVISION.model(name, classes=7)
        assert TORCHVISION.read(model, name).classes == 7


def test_images_are_those_of_the_newest_weights():
    with shapes_alone():
        found = TORCHVISION.read(TORCHVISION.model("mnasnet0_75"), "mnasnet0_75").expected
    assert (found.size, found.crop_pct, found.interpolation) == (224, 224 / 232, "bilinear")
    assert found.std == (0.229, 0.224, 0.225)


def test_unknown_names_and_classes_are_refused():
    with pytest.raises(UserError, match="torchvision:mobilenet_v4: torchvision has no such model; did you mean"):
        TORCHVISION.model("mobilenet_v4")
    with pytest.raises(UserError, match="torchvision:mine: models of class Linear cannot be read"):
        TORCHVISION.read(nn.Linear(1, 1), "mine")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.features[1].block.append(nn.Softmax()), "features.1.block.3 is of class Softmax"),
        (lambda m: m.features[0].pop(1), "features.0.1 is of class Hardswish"),
        (lambda m: m.features[0].__delitem__(slice(1, 3)), "features.0.0 is not followed by a normalisation"),
        (
            lambda m: m.features[4].block.insert(2, m.features[4].block[3]),
            "features.4 has convolutions (and activations) in the order pointwise (hswish), depthwise (hswish), pointw",
        ),
        (lambda m: m.features.insert(1, nn.MaxPool2d(2)), "features.1 is of class MaxPool2d"),
    ],
)
def test_what_no_block_expresses_is_named_where_it_stands(change, said):
    with shapes_alone():
        model = TORCHVISION.model("mobilenet_v3_small")
        change(model)
    with pytest.raises(UserError) as caught:
        TORCHVISION.read(model, "mobilenet_v3_small")
    assert str(caught.value).startswith(f"torchvision:mobilenet_v3_small: {said}")
