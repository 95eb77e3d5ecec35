"""What a supernet is to its sub-networks: it lends weights, and nothing that happens to them changes it unasked."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nasdeploy.supernet.supernet import Supernet, extract, input_side
from tests.nn.reference import randomise, reference_network
from tests.small_spaces import two_stages


@pytest.fixture
def supernet() -> Supernet:
    torch.manual_seed(0)
    made = Supernet(two_stages())
    randomise(made)
    return made


def test_training_leaves_running_statistics_alone(supernet: Supernet) -> None:
    before = {name: value.clone() for name, value in supernet.named_buffers()}
    supernet.train()
    for arch in (supernet.space.smallest(), supernet.space.largest()):
        supernet(torch.randn(4, 3, 8, 8), arch).sum().backward()
    assert before
    assert all(torch.equal(value, before[name]) for name, value in supernet.named_buffers())


def test_a_fresh_supernet_has_neutral_running_statistics() -> None:
    norms = [norm for norm in Supernet(two_stages()).modules() if isinstance(norm, nn.BatchNorm2d)]
    assert {value for norm in norms for value in norm.running_mean.tolist()} == {0.0}
    assert {value for norm in norms for value in norm.running_var.tolist()} == {1.0}


def test_images_are_rescaled_to_the_resolution_of_the_architecture(supernet: Supernet) -> None:
    images = torch.randn(3, 3, 8, 8)
    for arch in (supernet.space.smallest(), supernet.space.largest()):
        side = arch["resolution"]
        assert input_side(supernet.space.plan(arch)) == side
        resized = F.interpolate(images, size=(side, side), mode="bicubic", align_corners=False, antialias=False)
        assert torch.equal(supernet(images, arch), supernet(resized, arch))
        assert torch.equal(supernet(images, arch), extract(supernet, arch)(resized))


def test_sub_networks_equal_networks_of_torchs_modules(supernet: Supernet) -> None:
    rng = np.random.default_rng(0)
    supernet.double()
    images = torch.randn(4, 3, 9, 9, dtype=torch.float64)
    for _ in range(10):
        arch = supernet.space.sample(rng)
        side = arch["resolution"]
        other = reference_network(extract(supernet, arch)).train()
        resized = F.interpolate(images, size=(side, side), mode="bicubic") if side != 9 else images
        torch.testing.assert_close(supernet(images, arch), other(resized), rtol=1e-9, atol=1e-9)


def test_an_extracted_network_is_a_copy(supernet: Supernet) -> None:
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    network = extract(supernet, supernet.space.largest())
    own = {tensor.data_ptr() for tensor in supernet.state_dict().values() if tensor.numel()}
    assert own.isdisjoint(tensor.data_ptr() for tensor in network.state_dict().values() if tensor.numel())
    with torch.no_grad():
        for tensor in network.state_dict().values():
            tensor.fill_(7)
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())


def test_extraction_takes_running_statistics_along_and_the_mode(supernet: Supernet) -> None:
    arch = supernet.space.smallest()
    network = extract(supernet.eval(), arch)
    assert not network.training
    assert torch.equal(network.block("stem").weights.norm.running_mean, supernet.weights["stem"].norm.running_mean[:8])
    assert extract(supernet.train(), arch).training


def test_extraction_leaves_nothing_uninitialised(supernet: Supernet) -> None:
    for arch in (supernet.space.smallest(), supernet.space.largest()):
        for name, tensor in extract(supernet, arch).state_dict().items():
            assert tensor.device.type == "cpu", name
            assert tensor.isfinite().all(), name


def test_drop_rates_apply_to_the_slots_that_they_name(supernet: Supernet) -> None:
    arch, images = supernet.space.largest(), torch.randn(8, 3, 9, 9)
    plain = supernet(images, arch)
    assert torch.equal(supernet(images, arch, {}), plain)
    assert torch.equal(supernet(images, arch, {"stage1_block2": 0.0, "elsewhere": 0.9}), plain)
    assert not torch.equal(supernet(images, arch, {"stage1_block2": 0.9}), plain)
    assert not torch.equal(supernet(images, arch, {"head": 0.5}), plain)
