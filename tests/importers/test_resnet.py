"""ResNets of timm and torchvision as grown spaces: what the library's own model computes, and what torch counts."""

from copy import deepcopy

import numpy as np
import pytest
import timm
import torch

from nasdeploy.core.errors import UserError
from nasdeploy.core.settings import parse
from nasdeploy.importers import IMPORTERS
from nasdeploy.spaces.grown import GrownSettings
from nasdeploy.supernet.supernet import Supernet
from tests.importers.originals import difference, shapes_alone
from tests.nn.reference import randomise
from tests.supernet.test_extract import LAYOUTS, check_bit_equal

NARROW = {"channels": (16, 16, 24, 40)}
"""What timm makes narrow networks of."""


def made(name, **options):
    """The importer of a name's library, the library's own model, which may have options, and its name there."""
    library, _, own = name.partition(":")
    if options:
        return IMPORTERS[library], timm.create_model(own, **options).eval(), own
    return IMPORTERS[library], IMPORTERS[library].model(own), own


def read(name, **options):
    importer, model, own = made(name, **options)
    return importer.read(model, own)


@pytest.mark.parametrize("side", [64, 72])  # At 72 the averages of shortcuts are over odd sides.
@pytest.mark.parametrize("name", ["resnet18", "resnet18d", "resnet50s", "resnet26t", "seresnet50t", "resnetrs50"])
def test_the_largest_network_is_the_original(name, side):
    assert difference(*made(f"timm:{name}", **NARROW), side) <= 1e-5


@pytest.mark.parametrize("name", ["resnext50_32x4d", "seresnext26d_32x4d"])
def test_so_it_is_with_groups(name):
    assert difference(*made(f"timm:{name}", channels=(64, 64, 64, 64)), 64) <= 1e-5


def test_so_it_is_for_torchvision():
    assert difference(*made("torchvision:resnet18"), 64) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        *(f"timm:{name}" for name in ("resnet50d", "resnext50d_32x4d")),
        *(f"torchvision:{name}" for name in ("resnet50", "resnext50_32x4d", "wide_resnet50_2")),
    ],
)
def test_so_it_is_at_full_width(name):
    assert difference(*made(name), 64) <= 1e-5


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("ecaresnet26t", r"layer1\.0\.se is of class EcaModule"),
        ("ecaresnet50d_pruned", r"layer1\.0\.se is of class EcaModule"),
        ("resnet50_gn", "bn1 is of class GroupNorm"),
        ("resnetaa34d", "maxpool is of class AvgPool2d"),
        ("resnetblur18", r"maxpool\.1 is of class BlurPool2d"),
        ("senet154", r"layer1\.0\.conv2 has 128 inputs and 256 outputs"),
    ],
)
def test_names_that_no_block_expresses(name, why):
    with shapes_alone(), pytest.raises(UserError, match=f"^timm:{name}: {why}, which no block expresses$"):
        read(f"timm:{name}")


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ({"drop_block_rate": 0.1}, "layer3.0.drop_block is of class DropBlock2d"),
        ({"output_stride": 16}, r"layer4.1.conv2 has a dilation of \(2, 2\)"),
        ({"down_kernel_size": 3}, r"layer2.0.downsample.0 has a kernel of \(3, 3\) and a stride of \(2, 2\)"),
        ({"act_layer": torch.nn.ELU}, "act1 is of class ELU"),
        ({"global_pool": "max"}, "global_pool.pool is of class AdaptiveMaxPool2d"),
    ],
)
def test_options_that_no_block_expresses(option, why):
    with shapes_alone(), pytest.raises(UserError, match=f"^timm:resnet26: {why}, which no block expresses$"):
        read("timm:resnet26", **option)


# -- grown spaces


def grown_space(found, resolution, **choices):
    stages = [{"blocks": stage, "depth": [1, len(stage)], "middle": [50, 75, 100]} for stage in found.stages]
    content = {"kind": "grown", "name": "resnet", "resolution": resolution, "stem": found.stem, "head": found.head}
    return parse(GrownSettings, content | {"stages": stages}, "space").build(5)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("timm:resnet18", NARROW),
        ("timm:resnet50d", NARROW),
        ("timm:resnext50_32x4d", {"channels": (32, 32, 64, 64), "cardinality": 4, "base_width": 8}),
    ],
)
def test_output_and_gradients_are_bit_equal(name, options, layout):
    space = grown_space(read(name, **options), [32, 56])
    supernet = Supernet(space).to(memory_format=LAYOUTS[layout])
    randomise(supernet)
    holder, rng = deepcopy(supernet), np.random.default_rng(0)
    for arch in (space.smallest(), space.largest(), *(space.sample(rng) for _ in range(4))):
        images = torch.randn(2, 3, arch["resolution"], arch["resolution"]).to(memory_format=LAYOUTS[layout])
        check_bit_equal(supernet, holder, arch, images)


def test_what_can_be_smaller():
    found = read("timm:resnet50", **NARROW)
    space = grown_space(found, [64])
    cuts = {f"{kind}.{stage}" for kind in ("depth", "middle") for stage in range(4)}
    assert {choice.name for choice in space.choices} == {"resolution", *cuts}
    steps = {step.name: step.block for step in space.plan(space.smallest())}
    assert len(steps) == 6
    assert [steps[f"stage{n}_block1"].mid_channels for n in (1, 2, 3, 4)] == [8, 8, 16, 24]
    assert [steps[f"stage{n}_block1"].out_channels for n in (1, 2, 3, 4)] == [64, 64, 96, 160]
