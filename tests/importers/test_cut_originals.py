"""Everything that is cut from originals of other libraries: the same inside the supernet and extracted."""

import numpy as np
import pytest
import torch

from nasdeploy.importers import IMPORTERS
from nasdeploy.supernet.supernet import Supernet
from tests.importers.originals import assert_bit_equal, with_cuts
from tests.nn.reference import randomise

ORIGINALS = (
    *("timm:efficientnet_b0", "timm:fbnetc_100", "timm:mobilenetv4_conv_small_035", "timm:test_efficientnet"),
    *("timm:tf_efficientnetv2_b0", "torchvision:mobilenet_v3_small"),
)


@pytest.mark.slow
@pytest.mark.parametrize("original", ORIGINALS)
def test_output_and_gradients_are_bit_equal(original: str) -> None:
    library, _, name = original.partition(":")
    torch.manual_seed(0)
    found = IMPORTERS[library].read(IMPORTERS[library].model(name), name)
    space = with_cuts(found, [48, 64])
    supernet = Supernet(space)
    supernet.load_state_dict(found.weights)
    randomise(supernet)
    rng = np.random.default_rng(0)
    assert_bit_equal(supernet, [space.smallest(), space.sample(rng)], 64)
