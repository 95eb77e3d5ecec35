"""Networks of timm as grown spaces: what timm's own models compute and cost, and what is refused."""

import pytest
import timm
from torch import nn

from nasdeploy.core.errors import UserError
from nasdeploy.importers import IMPORTERS
from tests.importers.originals import difference, shapes_alone

TIMM = IMPORTERS["timm"]
FAMILIES = (
    *("efficientnet_es", "lcnet_035", "mobilenetv2_035", "mobilenetv4_conv_small_035", "semnasnet_050"),
    *("test_efficientnet", "tf_efficientnet_lite0", "tf_mobilenetv3_small_075", "tinynet_e"),
)
"""A small network of each kind; `tests/benchmarks/bench_importers.py` compares all of them."""
REFUSED = {
    **{f"efficientnet_b{depth}_gn": "bn1 is of class GroupNormAct" for depth in (0, 3)},
    **{f"efficientnet_b{depth}_g8_gn": "bn1 is of class GroupNormAct" for depth in (0, 3)},
    "efficientnet_b0_g16_evos": "blocks.0.0.conv_dw has 2 groups for 32 channels",
    "efficientnet_blur_b0": "blocks.1.0.aa is of class BlurPool2d",
    **{
        f"{maker}efficientnet_cc_{kind}": "blocks.4.0 is of class CondConvResidual"
        for maker in ("", "tf_")
        for kind in ("b0_4e", "b0_8e", "b1_8e")
    },
    **{
        f"efficientnet_{kind}": "blocks.0.0.conv_dw has a kernel of (2, 2) and a stride of (1, 1)"
        for kind in ("h_b5", "x_b3", "x_b5")
    },
    "gc_efficientnetv2_rw_t": "blocks.3.0.se is of class GlobalContext",
    **{f"mixnet_{size}": "blocks.1.0.conv_pw is of class MixedConv2d" for size in ("s", "m", "l", "xl", "xxl")},
    **{f"tf_mixnet_{size}": "blocks.1.0.conv_pw is of class MixedConv2d" for size in ("s", "m", "l")},
    "mobilenet_edgetpu_v2_xs": "blocks.1.1.conv_exp has 2 groups for 32 channels",
    "mobilenet_edgetpu_v2_s": "blocks.1.1.conv_exp has 3 groups for 48 channels",
    "mobilenet_edgetpu_v2_m": "blocks.1.1.conv_exp has 4 groups for 64 channels",
    "mobilenet_edgetpu_v2_l": "blocks.1.1.conv_exp has 2 groups for 64 channels",
    **{f"mobilenetv4_conv_aa_{size}": "blocks.0.0.aa is of class AvgPool2d" for size in ("medium", "large")},
    "mobilenetv4_conv_blur_medium": "blocks.0.0.aa is of class BlurPool2d",
    **{f"mobilenetv4_hybrid_{size}": "bn1.act is of class GELU" for size in ("large", "large_075")},
    **{f"mobilenetv4_hybrid_{size}": "blocks.2.4 is of class MobileAttention" for size in ("medium", "medium_075")},
    "test_efficientnet_evos": "bn1 is of class EvoNorm2dS0",
    "test_efficientnet_gn": "bn1 is of class GroupNormAct",
    "test_efficientnet_ln": "bn1 is of class LayerNormAct2d",
}
"""The mobile networks that hold what no block expresses."""


@pytest.mark.parametrize("name", FAMILIES)
def test_the_largest_network_is_the_original(name):
    assert difference(TIMM, TIMM.model(name), name, 64) <= 1e-5


def mobile(name: str) -> bool:
    """Whether a model is of the classes that are built from mobile blocks."""
    return timm.model_entrypoint(name).__module__.endswith(("efficientnet", "hardcorenas", "mobilenetv3"))


@pytest.mark.slow
def test_mobile_networks_that_hold_something_else_are_refused():
    assert len(set(filter(mobile, TIMM.names())) - set(REFUSED)) >= 116
    for name, what in REFUSED.items():
        with shapes_alone():
            model = TIMM.model(name)
        with pytest.raises(UserError) as caught:
            TIMM.read(model, name)
        assert str(caught.value) == f"timm:{name}: {what}, which no block expresses"


def test_a_layer_that_no_reader_looked_at_is_refused():
    with shapes_alone():
        model = TIMM.model("test_efficientnet")
        model.blocks[0][0].extra = nn.PReLU()
    with pytest.raises(UserError, match=r"timm:mine: blocks\.0\.0\.extra is of class PReLU, which no block expresses"):
        TIMM.read(model, "mine")
    model.blocks[0][0].extra = nn.Identity()
    TIMM.read(model, "mine")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: setattr(m.blocks[1][0].bn1, "eps", 0.1), "blocks.1.0.bn2 adds 1e-05 to variances, others of its"),
        (lambda m: setattr(m.blocks[1][0].bn1, "act", nn.Identity()), "blocks.1.0 has convolutions (and activations)"),
        (lambda m: setattr(m.blocks[1][0].bn1, "act", nn.Mish()), "blocks.1.0.bn1.act is of class Mish"),
        (lambda m: setattr(m.conv_stem, "dilation", (2, 2)), "conv_stem has a dilation of (2, 2)"),
        (lambda m: setattr(m.conv_stem, "padding", (0, 0)), "conv_stem has a padding of (0, 0)"),
        (lambda m: setattr(m, "conv_stem", nn.Conv2d(3, 24, 3, 2, 1)), "conv_stem has a bias"),
        (lambda m: m.reset_classifier(0), "classifier is of class Identity"),
        (lambda m: m.reset_classifier(10, "max"), "global_pool pools by max"),
    ],
)
def test_what_no_block_expresses_is_named_where_it_stands(change, said):
    with shapes_alone():
        model = TIMM.model("test_efficientnet")
        change(model)
    with pytest.raises(UserError) as caught:
        TIMM.read(model, "mine")
    assert str(caught.value).startswith(f"timm:mine: {said}")
    assert "\n" not in str(caught.value)


def test_images_are_those_of_the_configuration():
    with shapes_alone():
        found = TIMM.read(TIMM.model("fbnetc_100"), "fbnetc_100").expected
    assert (found.size, found.crop_pct, found.interpolation) == (224, 0.875, "bilinear")
    assert found.mean == pytest.approx((0.485, 0.456, 0.406))
