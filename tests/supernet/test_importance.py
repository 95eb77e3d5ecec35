"""Sorting channels by importance: the largest network stays what it is, and narrower ones get what matters."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.space import SearchSpace
from nasdeploy.supernet.evaluate import calibrate
from nasdeploy.supernet.importance import CRITERIA, sort_channels
from nasdeploy.supernet.supernet import Supernet, extract
from tests.families.families import registered
from tests.families.space import Writer
from tests.nn.reference import randomise
from tests.small_spaces import grown, two_stages

SPACES = {"grown": grown, "table": two_stages}
IN_ORDER = (*(f"stage2_block{number}" for number in (1, 2, 3)), "stage3_block1", "stage3_block2")
"""The slots with channels of their own."""


def supernet_of(space: SearchSpace) -> Supernet:
    torch.manual_seed(0)
    supernet = Supernet(space)
    randomise(supernet)
    return supernet


def images(count: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))


def state(supernet: Supernet) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in supernet.state_dict().items()}


def logits(supernet: Supernet, arch: Arch) -> list[Tensor]:
    """What a network computes in training mode, with the supernet's statistics, and recalibrated."""
    network = extract(supernet, arch)

    def computed() -> Tensor:
        (output,) = network.run(network.plan.only.name, images())
        return output

    with torch.no_grad():
        in_training = computed()
        network.eval()
        running = computed()
        calibrate(network, [images(8, 1)])
        return [in_training, running, computed()]


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("space", SPACES)
def test_the_largest_network_computes_what_it_did(space: str, criterion: str) -> None:
    supernet = supernet_of(SPACES[space]())
    before, expected = state(supernet), logits(supernet, supernet.space.largest())
    smaller = logits(supernet, supernet.space.smallest())
    sort_channels(supernet, criterion, [images(), images(4, 2)])
    assert any(not torch.equal(before[name], value) for name, value in supernet.state_dict().items())
    for found, wanted in zip(logits(supernet, supernet.space.largest()), expected, strict=True):
        assert torch.allclose(found, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))
    assert not torch.allclose(logits(supernet, supernet.space.smallest())[0], smaller[0], rtol=0, atol=1e-3)


def known_importance(supernet: Supernet, criterion: str) -> Mapping[str, Tensor]:
    """Make the channels of each slot matter in an order that is drawn, and return it, most important first."""
    orders, generator = {}, torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name in IN_ORDER:
            weights = supernet.weights[name]
            channels = weights.project.in_channels
            orders[name] = torch.randperm(channels, generator=generator)
            factors = torch.empty(channels)
            factors[orders[name]] = torch.logspace(0, -2, channels)
            weights.depthwise_norm.weight.fill_(1.0)
            weights.depthwise_norm.bias.fill_(0.0)
            weights.project.weight.fill_(1.0)
            if criterion == "bn-scale":
                weights.depthwise_norm.weight.copy_(factors * torch.randn(channels).sign())
            elif criterion == "projection":
                weights.project.weight.mul_(factors[None, :, None, None])
            else:
                # Equal columns, so that activations alone decide: their size is that of scale and shift.
                weights.depthwise_norm.weight.copy_(factors)
                weights.depthwise_norm.bias.copy_(factors)
                if weights.restore is not None:
                    weights.restore.weight.fill_(0.0)
                    weights.restore.bias.fill_(0.0)
    return orders


@pytest.mark.parametrize("criterion", CRITERIA)
def test_an_order_that_is_known_is_found(criterion: str) -> None:
    supernet = supernet_of(grown())
    orders = known_importance(supernet, criterion)
    before = state(supernet)
    sort_channels(supernet, criterion, [images(64)])
    for name, order in orders.items():
        found = supernet.state_dict()[f"weights.{name}.depthwise.weight"]
        wanted = before[f"weights.{name}.depthwise.weight"][order]
        if criterion in ("projection", "bn-scale"):
            assert torch.equal(found, wanted)
            continue
        # The shape of each channel's values differs a little: order holds but for neighbours.
        places = torch.tensor([int((wanted - row).flatten(1).abs().sum(1).argmin()) for row in found])
        assert float((places - torch.arange(len(order))).abs().max()) <= len(order) // 4


@pytest.mark.parametrize("criterion", ["projection", "activation", "variation"])
def test_half_of_a_network_whose_other_half_is_dead_equals_the_largest(criterion: str) -> None:
    supernet = supernet_of(grown())
    space = supernet.space
    with torch.no_grad():
        for name in IN_ORDER:
            weights = supernet.weights[name]
            channels = weights.project.in_channels
            dead = torch.randperm(channels)[: channels // 2]
            weights.project.weight[:, dead] = 0
            if weights.reduce is not None:
                weights.reduce.weight[:, dead] = 0
    largest = space.largest()
    half = space.arch({**largest, "middle.1": 50})
    sort_channels(supernet, criterion, [images()])
    for narrow, wide in zip(logits(supernet, half), logits(supernet, largest), strict=True):
        assert torch.allclose(narrow, wide, rtol=0, atol=1e-4 * float(wide.abs().max()))


def test_channels_that_come_from_the_input_stay_where_they_are() -> None:
    supernet = supernet_of(grown())
    before = state(supernet)
    sort_channels(supernet, "projection")
    after = supernet.state_dict()
    moved = {name.split(".")[1] for name, value in after.items() if not torch.equal(before[name], value)}
    assert moved == set(IN_ORDER)


def test_channels_that_some_blocks_take_from_their_input_stay_too() -> None:
    supernet = supernet_of(two_stages())
    before = state(supernet)
    sort_channels(supernet, "projection")
    moved = {
        name.split(".")[1] for name, value in supernet.state_dict().items() if not torch.equal(before[name], value)
    }
    # Blocks of the first stage may have no expansion.
    assert moved == {"stage2_block1", "stage2_block2"}


def test_families_of_other_kinds_of_layers_are_sorted() -> None:
    with registered():
        supernet = Supernet(Writer())
        before = state(supernet)
        sort_channels(supernet, "projection")
    moved = [name for name, value in supernet.state_dict().items() if not torch.equal(before[name], value)]
    assert moved
    assert all(".up." in name or ".down.weight" in name for name in moved)


def test_blocks_without_a_normalisation_are_not_sorted_by_its_scale() -> None:
    with registered():
        supernet = Supernet(Writer())
        before = state(supernet)
        sort_channels(supernet, "bn-scale")
    assert all(torch.equal(before[name], value) for name, value in supernet.state_dict().items())


def test_what_cannot_be_sorted_by_is_refused() -> None:
    supernet = supernet_of(grown())
    with pytest.raises(UserError, match="'activations'; did you mean 'activation'"):
        sort_channels(supernet, "activations")
    with pytest.raises(ValueError, match="at least one batch"):
        sort_channels(supernet, "activation")
