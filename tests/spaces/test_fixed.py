"""A network as a space of its own: the same plan, the same digest, and bit for bit the same computation."""

import numpy as np
import pytest
import torch

from nasdeploy.core.arch import Arch
from nasdeploy.core.space import SearchSpace
from nasdeploy.nn.functional import rescale
from nasdeploy.spaces.fixed import FixedSpace
from nasdeploy.supernet.networks import inherit
from nasdeploy.supernet.supernet import Supernet, extract, input_side
from tests.families.families import registered
from tests.families.space import Writer
from tests.nn.reference import randomise
from tests.small_spaces import ToySpace, grown, one_stage, two_stages
from tests.supernet.test_sharing import TABLE, TransformingSpace


def some(space: SearchSpace, count: int = 2) -> list[Arch]:
    rng = np.random.default_rng(0)
    return [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(count))]


SPACES = {"one": one_stage(), "two": two_stages(), "kernels": TransformingSpace(TABLE, 3), "grown": grown()}


@pytest.mark.parametrize("space", [*SPACES.values(), ToySpace(), Writer()], ids=lambda space: str(space.name))
def test_it_has_one_architecture_with_the_same_plan_and_digest(space: SearchSpace) -> None:
    for arch in some(space):
        fixed = FixedSpace(space, arch)
        assert fixed.size == 1
        assert fixed.smallest() == fixed.largest() == fixed.arch(arch.to_json()) == arch
        assert fixed.plan(arch) == space.plan(arch)
        assert fixed.decode(fixed.encode([arch])) == [arch]
        assert fixed.digest != space.digest
    first, second, *_ = some(space)
    assert FixedSpace(space, first).digest != FixedSpace(space, second).digest


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_its_supernet_is_the_extracted_network_bit_for_bit_with_gradients(space: SearchSpace) -> None:
    torch.manual_seed(0)
    parent = Supernet(space)
    randomise(parent)
    side = input_side(space.plan(space.largest()))
    images = torch.randn(3, 3, side, side)
    for arch in some(space):
        network = extract(parent, arch)
        supernet = Supernet(FixedSpace(space, arch))
        inherit(supernet, network)
        outputs, expected = supernet(images, arch), network(rescale(images, input_side(network.plan)))
        assert torch.equal(outputs, expected)
        outputs.square().sum().backward()
        expected.square().sum().backward()
        own = extract(supernet, arch)
        for name, tensor in network.state_dict().items():
            assert torch.equal(own.state_dict()[name], tensor), name
        for slot, weights in supernet.weights.items():
            given = dict(network.block(slot).weights.named_parameters())
            for name, parameter in weights.named_parameters():
                assert equal(parameter.grad, given[name].grad), (slot, name)


def equal(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is other if one is None or other is None else torch.equal(one, other)


def test_parts_and_tied_weights_are_inherited() -> None:
    with registered():
        space = Writer()
        torch.manual_seed(0)
        parent = Supernet(space)
        for arch in some(space):
            network = extract(parent, arch)
            supernet = Supernet(FixedSpace(space, arch))
            inherit(supernet, network)
            own = extract(supernet, arch)
            assert own.plan == network.plan
            assert all(torch.equal(own.state_dict()[name], value) for name, value in network.state_dict().items())
