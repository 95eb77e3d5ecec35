"""Sorting channels by importance: the largest network stays what it is, and narrower ones get what matters."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from nasdeploy.blocks.residual import Bottleneck
from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import Block
from nasdeploy.core.space import SearchSpace
from nasdeploy.nn.network import StaticBlock
from nasdeploy.nn.residual import BottleneckFamily
from nasdeploy.spaces import load_settings
from nasdeploy.supernet.evaluate import calibrate
from nasdeploy.supernet.importance import CRITERIA, _sorted_between, sort_channels
from nasdeploy.supernet.supernet import Supernet, extract
from tests.families.families import registered
from tests.families.space import Writer
from tests.nn.reference import randomise
from tests.small_spaces import grown, ofa, two_stages
from tests.supernet.gradients import randomise_transforms

Array = npt.NDArray[np.float64]
SPACES = {"grown": grown, "table": two_stages, "ofa": ofa}
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


# -- networks that are trained already


def round8(value: float) -> int:
    rounded = max(8, int(8 * np.floor((value + 4) / 8)))
    return rounded + 8 if rounded < 0.9 * value else rounded


def trained_at(space: SearchSpace, ratios: Collection[int]) -> dict[str, list[Block]]:
    """The blocks of networks all of whose expansions are among these."""
    found: dict[str, list[Block]] = {}
    for slot in space.slots:
        values = [ratios if name.startswith("expand_ratio") else space.values_of[name] for name in slot.reads]
        blocks = [space.block_at(slot, dict(zip(slot.reads, each, strict=True))) for each in product(*values)]
        found[slot.name] = [block for block in blocks if block is not None]
    return found


def sorted_between(importance: Array, widths: Iterable[int]) -> Array:
    """The order of channels that leaves the first so many the first ones, for each of the widths."""
    ends = sorted({0, len(importance), *widths})
    groups = [np.arange(first, end) for first, end in pairwise(ends)]
    return np.concatenate([group[np.argsort(-importance[group], kind="stable")] for group in groups])


def doubled(space: SearchSpace) -> Supernet:
    """A supernet in float64, so that sums in any order are the same in all but the last digits."""
    supernet = supernet_of(space).double()
    randomise_transforms(supernet)
    return supernet


STAGES = {"largest": (6,), "two": (3, 6), "all": (2, 3, 6)}
"""The expansions that networks were trained with, of the small space, before channels are sorted."""


@pytest.mark.parametrize("stage", STAGES)
def test_channels_are_sorted_between_the_widths_that_are_trained(stage: str) -> None:
    supernet = doubled(ofa())
    before = {name: value.numpy() for name, value in state(supernet).items()}
    sort_channels(supernet, "projection", trained=trained_at(supernet.space, STAGES[stage]))
    moved = 0
    for slot, inside in {"stage2_block1": 8, "stage2_block2": 16}.items():
        old = {name.removeprefix(f"weights.{slot}."): value for name, value in before.items() if f".{slot}." in name}
        new = {name: supernet.state_dict()[f"weights.{slot}.{name}"].numpy() for name in old}
        widths = [round8(inside * ratio) for ratio in STAGES[stage]]
        order = sorted_between(np.abs(old["project.weight"][:, :, 0, 0]).sum(axis=0), widths)
        hidden = sorted_between(
            np.abs(old["restore.weight"][:, :, 0, 0]).sum(axis=0), [round8(width // 4) for width in widths]
        )
        expected = dict(old)
        for name in old:
            layer = name.partition(".")[0]
            if layer in ("expand", "depthwise") or (
                layer in ("expand_norm", "depthwise_norm") and "num_batches" not in name
            ):
                expected[name] = old[name][order]
        expected["project.weight"] = old["project.weight"][:, order]
        expected["reduce.weight"] = old["reduce.weight"][hidden][:, order]
        expected["reduce.bias"] = old["reduce.bias"][hidden]
        expected["restore.weight"] = old["restore.weight"][order][:, hidden]
        expected["restore.bias"] = old["restore.bias"][order]
        assert {name for name in old if not np.array_equal(new[name], expected[name])} == set()
        moved += int((order != np.arange(len(order))).sum()) * int((hidden != np.arange(len(hidden))).sum())
    assert moved > 1000


@pytest.mark.parametrize("stage", STAGES)
def test_networks_that_are_trained_compute_what_they_did(stage: str) -> None:
    supernet = doubled(ofa())
    space, kept = supernet.space, STAGES[stage]
    archs = [space.arch({**space.largest(), **dict.fromkeys(EXPANSIONS, ratio)}) for ratio in (2, 3, 6)]
    archs += [space.arch({**archs[0], "expand_ratio.0": 6}), space.arch({**archs[1], "kernel_size.1": 3})]
    expected = [computed(supernet, arch) for arch in archs]
    sort_channels(supernet, "projection", trained=trained_at(space, kept))
    for arch, wanted in zip(archs, expected, strict=True):
        found = computed(supernet, arch)
        scale = float(wanted.abs().max())
        if {arch[name] for name in EXPANSIONS} <= set(kept):
            assert torch.allclose(found, wanted, rtol=0, atol=1e-9 * scale)
        else:
            assert not torch.allclose(found, wanted, rtol=0, atol=1e-2 * scale)


EXPANSIONS = ("expand_ratio.0", "expand_ratio.1")


def computed(supernet: Supernet, arch: Arch) -> Tensor:
    """Logits by the statistics of the batch."""
    pictures = images().double()
    with torch.no_grad():
        return supernet(pictures, arch)


@pytest.mark.slow
@pytest.mark.parametrize("ratios", [(6,), (4, 6), (3, 4, 6)])
def test_networks_of_once_for_alls_space_compute_what_they_did(ratios: tuple[int, ...]) -> None:
    settings = load_settings("ofa-mbv3").model_copy(update={"resolution": (48,)})
    supernet = doubled(settings.build(10))
    space, pictures = supernet.space, images(2).double()
    names = [name for name in space.values_of if name.startswith("expand_ratio")]
    archs = {ratio: space.arch({**space.largest(), **dict.fromkeys(names, ratio)}) for ratio in (3, 4, 6)}
    with torch.no_grad():
        expected = {ratio: supernet(pictures, arch) for ratio, arch in archs.items()}
        sort_channels(supernet, "projection", trained=trained_at(space, ratios))
        found = {ratio: supernet(pictures, arch) for ratio, arch in archs.items()}
    for ratio, wanted in expected.items():
        difference = float((found[ratio] - wanted).abs().max() / wanted.abs().max())
        assert difference <= 1e-5 if ratio in ratios else difference > 1e-2


def test_widths_that_are_trained_are_kept_in_groups_of_neighbours() -> None:
    whole = Bottleneck(8, 32, 32, mid_channels=32, stride=1, activation="relu", group_width=4)
    importance = torch.tensor([1.0, 3.0, 2.0, 4.0, 5.0, 0.0, 7.0, 6.0])
    middle = BottleneckFamily.middles(StaticBlock(whole).weights)[0]
    kept = {middle.channels_of(replace(whole, mid_channels=12)) // middle.width}
    assert _sorted_between(importance, kept).tolist() == [1, 2, 0, 6, 7, 4, 3, 5]


def test_channels_of_other_kinds_of_layers_are_kept_too() -> None:
    with registered():
        supernet = Supernet(Writer())
        before = state(supernet)
        every = {
            slot.name: [block for block in supernet.space.blocks_of(slot) if block] for slot in supernet.space.slots
        }
        sort_channels(supernet, "projection", trained=every)
        kept = {slot: {block.hidden for block in blocks if hasattr(block, "hidden")} for slot, blocks in every.items()}
    for name, value in supernet.state_dict().items():
        if name.endswith(".up.weight"):
            (least, *_) = sorted(kept[name.split(".")[1]])
            rows = {tuple(row) for row in before[name][:least].tolist()}
            assert rows == {tuple(row) for row in value[:least].tolist()}


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
