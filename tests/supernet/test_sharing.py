"""Sub-networks whose kernels are computed from larger ones: extracted they are the same function, bit for bit."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from nasdeploy.blocks.inverted_residual import KernelTransform
from nasdeploy.spaces.mobilenet import MobileNetSpace, MobileNetTable
from nasdeploy.supernet.supernet import Supernet, extract
from tests.nn.reference import randomise
from tests.supernet.gradients import pulled_back, randomise_transforms

TABLE = MobileNetTable.model_validate_json(
    """{"name": "kernels", "resolution": [9], "activation": "swish", "stem": {"width": [8], "stride": 1},
    "stages": [
        {"width": [8, 16], "depth": [1, 2], "kernel": [3, 5, 7], "expand": [1, 2], "stride": 1},
        {"width": [16], "depth": [2], "kernel": [3, 7], "expand": [2], "stride": 2, "se": true}],
    "head": {"width": [16], "expand": 2}}"""
)


class TransformingSpace(MobileNetSpace):
    """The space of a table, whose kernels are transformed as those of once-for-all."""

    def __init__(self, table: MobileNetTable, classes: int) -> None:
        super().__init__(table, classes)
        self.slots = tuple(
            slot if slot.name in ("stem", "head") else replace(slot, sharing=KernelTransform()) for slot in self.slots
        )


SPACE = TransformingSpace(TABLE, 3)
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def test_the_rule_is_part_of_what_a_space_is() -> None:
    plain = TABLE.build(3)
    assert SPACE.distinct_blocks() == plain.distinct_blocks(), "what is measured is the same"
    assert SPACE.digest != plain.digest, "what weights are for is not"


def supernet() -> Supernet:
    torch.manual_seed(0)
    made = Supernet(SPACE)
    randomise(made)
    randomise_transforms(made)
    return made


def test_there_is_a_matrix_for_each_step_between_kernels() -> None:
    names = {name.removeprefix("weights.") for name, _ in supernet().named_parameters() if ".transforms." in name}
    first = {f"stage1_block{n}.transforms.{step}" for n in (1, 2) for step in ("7to5", "5to3")}
    assert names == first | {f"stage2_block{n}.transforms.7to3" for n in (1, 2)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_output_and_gradients_are_bit_equal(layout: str) -> None:
    whole = supernet().to(memory_format=LAYOUTS[layout])
    holder = deepcopy(whole)
    rng = np.random.default_rng(0)
    images = torch.randn(2, 3, 9, 9).to(memory_format=LAYOUTS[layout])
    for arch in [SPACE.smallest(), SPACE.largest(), *(SPACE.sample(rng) for _ in range(10))]:
        network = extract(whole, arch).to(memory_format=LAYOUTS[layout])
        assert not any("transforms" in name for name in network.state_dict())
        whole.zero_grad()
        inside, alone = whole(images, arch), network(images)
        assert torch.equal(inside, alone)
        inside.square().sum().backward()
        alone.square().sum().backward()
        for found, expected in zip(pulled_back(holder, network, arch), whole.parameters(), strict=True):
            assert (found is None) == (expected.grad is None)
            assert found is None or torch.equal(found, expected.grad)


def test_smaller_kernels_train_the_matrices() -> None:
    whole = supernet()
    whole(torch.randn(2, 3, 9, 9), SPACE.smallest()).square().sum().backward()
    used = {
        name for name, parameter in whole.named_parameters() if ".transforms." in name and parameter.grad is not None
    }
    # The second block of the first stage is absent.
    assert used == {
        *(f"weights.stage1_block1.transforms.{step}" for step in ("7to5", "5to3")),
        *(f"weights.stage2_block{n}.transforms.7to3" for n in (1, 2)),
    }


def test_extraction_copies_what_is_computed() -> None:
    whole = supernet()
    network = extract(whole, SPACE.smallest())
    block = network.block("stage1_block1")
    depthwise = block.weights.depthwise
    assert isinstance(depthwise, nn.Conv2d)
    assert depthwise.weight.shape[-1] == 3
    centre = whole.weights["stage1_block1"].depthwise.weight[:8, :, 2:5, 2:5]
    assert not torch.allclose(depthwise.weight, centre)
