"""A sub-network inside the supernet and the same one extracted must be the same function, bit for bit."""

from copy import deepcopy
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch import Tensor

from nasdeploy.blocks.inverted_residual import InvertedResidual, KernelTransform
from nasdeploy.core.arch import Arch
from nasdeploy.core.space import SearchSpace
from nasdeploy.nn import depthwise
from nasdeploy.nn.functional import rescale
from nasdeploy.nn.network import Network
from nasdeploy.spaces import SPACES, load_settings, load_space
from nasdeploy.spaces.mobilenet import MobileNetTable
from nasdeploy.supernet.supernet import Supernet, extract, input_side
from tests.nn.reference import randomise
from tests.small_spaces import GROWN
from tests.supernet.gradients import pulled_back, randomise_transforms

ARCHS = {"bignas": 25, "ofa-mbv3": 25, "ofa-mbv3-w1.2": 25}
"""In each of the two layouts, which have different ones, beside the smallest and the largest network; by default 10."""
IMAGE_SIDE = {
    "alphanet": 64,
    "bignas": 64,
    "cifar10": 32,
    "digits": 12,
    "ofa-mbv3": 40,
    "ofa-mbv3-w1.2": 40,
    GROWN.name: 12,
}
RESOLUTIONS = {
    "alphanet": (48, 56, 64, 72),
    "bignas": (48, 56, 72, 80),
    "ofa-mbv3": (32, 36, 40, 48),
    "ofa-mbv3-w1.2": (32, 36, 40, 48),
}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def at_resolutions(name: str) -> SearchSpace:
    """The space; for photographs with resolutions that a test can afford."""
    if name == GROWN.name:
        return GROWN.build(10)
    if name not in RESOLUTIONS:
        return load_space(name, 10)
    table = load_settings(name).model_copy(update={"resolution": RESOLUTIONS[name]})
    return (table.model_copy(update={"named": {}}) if isinstance(table, MobileNetTable) else table).build(10)


def check_bit_equal(supernet: Supernet, holder: Supernet, arch: Arch, images: Tensor) -> None:
    """Compare outputs in the supernet with those of the extracted network, and gradients of all weights.

    `holder` is a copy of the supernet.
    """
    layout = torch.channels_last if images.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    network = extract(supernet, arch).to(memory_format=layout)
    supernet.zero_grad()
    logits = supernet(images, arch)
    alone = network(rescale(images, input_side(network.plan)))
    assert torch.equal(logits, alone)
    logits.square().sum().backward()
    alone.square().sum().backward()
    check_gradients(supernet, holder, network, arch)


def check_gradients(supernet: Supernet, holder: Supernet, network: Network, arch: Arch) -> None:
    """Compare gradients of all weights, kernels and the matrices between them included, with those in the network."""
    compared = matrices = 0
    found = zip(pulled_back(holder, network, arch), supernet.named_parameters(), strict=True)
    for gradient, (name, parameter) in found:
        assert (gradient is None) == (parameter.grad is None)
        if gradient is not None and parameter.grad is not None:
            assert torch.equal(gradient, parameter.grad)
            compared += 1
            matrices += ".transforms." in name
    assert compared - matrices == len(list(network.parameters()))
    if any(isinstance(slot.sharing, KernelTransform) for slot in supernet.space.slots):
        kernels = [step.block.kernel_size for step in network.plan if isinstance(step.block, InvertedResidual)]
        # Of kernels 3, 5 and 7 one is computed by two matrices, one by one; the first block has no choice.
        assert matrices == sum({3: 2, 5: 1, 7: 0}[kernel] for kernel in kernels[1:])


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", [*SPACES, GROWN.name])
def test_output_and_gradients_are_bit_equal(name: str, layout: str) -> None:
    space = at_resolutions(name)
    torch.manual_seed(0)
    supernet = Supernet(space).to(memory_format=LAYOUTS[layout])
    randomise(supernet)
    randomise_transforms(supernet)
    holder = deepcopy(supernet)
    rng = np.random.default_rng(list(LAYOUTS).index(layout))
    images = torch.randn(2, 3, IMAGE_SIDE[name], IMAGE_SIDE[name]).to(memory_format=LAYOUTS[layout])
    for arch in (space.smallest(), space.largest(), *(space.sample(rng) for _ in range(ARCHS.get(name, 10)))):
        check_bit_equal(supernet, holder, arch, images)


def test_networks_that_learn_from_many_images_are_bit_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    """As training does: in channels-last layout, with gradients of depthwise weights that are summed in ways of our
    own."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    summed = [Mock(wraps=way) for way in (depthwise._by_pairs, depthwise._by_offsets)]
    monkeypatch.setattr(depthwise, "_by_pairs", summed[0])
    monkeypatch.setattr(depthwise, "_by_offsets", summed[1])
    space = at_resolutions(GROWN.name)
    torch.manual_seed(0)
    supernet = Supernet(space).to(memory_format=torch.channels_last)
    randomise(supernet)
    holder, images = deepcopy(supernet), torch.randn(64, 3, 12, 12).to(memory_format=torch.channels_last)
    for arch in (space.smallest(), space.largest()):
        check_bit_equal(supernet, holder, arch, images)
    assert all(way.called for way in summed)


def test_nothing_in_an_extracted_network_is_left_undefined() -> None:
    space = at_resolutions("digits")
    supernet = Supernet(space)
    # In this mode fresh memory holds NaN and the largest integers.
    torch.use_deterministic_algorithms(True)
    try:
        state = extract(supernet, space.largest()).state_dict()
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.isfinite(value).all() for value in state.values())
    assert all(value == 0 for name, value in state.items() if name.endswith("num_batches_tracked"))
