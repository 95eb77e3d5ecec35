"""Networks of timm as grown spaces: what timm's own model computes, and what torch counts of it."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nasdeploy.core.settings import parse
from nasdeploy.importers import IMPORTERS
from nasdeploy.spaces.grown import GrownSettings
from nasdeploy.supernet.supernet import Supernet, extract
from tests.nn.reference import randomise


def grown(found, resolution):
    """The space in which nothing but the images can be smaller."""
    rows = {"stem": found.stem, "stages": [{"blocks": stage} for stage in found.stages], "head": found.head}
    content = {"kind": "grown", "name": "imported", "resolution": [resolution], **rows}
    return parse(GrownSettings, content, "imported").build(found.classes)


@pytest.mark.parametrize(
    "name",
    [
        "tf_efficientnet_lite0",
        "efficientnet_b0",
        "mobilenetv1_100",
        "mobilenetv2_035",
        "tf_mobilenetv3_small_075",
        "lcnet_035",
        "test_efficientnet",
        "fbnetv3_b",
        "mobilenetv4_conv_small_035",
        "mobilenetv4_conv_medium",
    ],
)
def test_the_largest_network_is_the_original(name):
    torch.manual_seed(0)
    model = IMPORTERS["timm"].model(name)
    randomise(model)
    found = IMPORTERS["timm"].read(model.eval(), name)
    space = grown(found, 96)
    supernet = Supernet(space)
    supernet.load_state_dict(found.weights)
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        expected = model(images)
    with torch.no_grad():
        logits = extract(supernet, space.largest()).eval()(images)
    assert torch.allclose(logits, expected, rtol=0.0, atol=1e-5 * float(expected.abs().max()))
    assert 2 * space.plan(space.largest()).macs * len(images) == counted.get_total_flops()
