"""What networks take of memory, against plans made by hand and files that were written."""

import pytest
import torch
from torch.overrides import TorchFunctionMode

from nasdeploy.blocks.convolutions import ConvBlock, FusedInvertedResidual
from nasdeploy.blocks.heads import PoolHead, Stem
from nasdeploy.blocks.inverted_residual import InvertedResidual, MBConv
from nasdeploy.blocks.universal_residual import UniversalInvertedResidual
from nasdeploy.convert import to_onnx
from nasdeploy.core.cost_registry import COSTS, NETWORK_COSTS, front_axis, live_elements, on_device, split_name
from nasdeploy.core.costs import NetworkCosts
from nasdeploy.core.plan import Block, Part, Plan, Step, TensorType
from nasdeploy.latency.profile import randomise_norms
from nasdeploy.nn.network import Network, StaticBlock
from nasdeploy.spaces import load_space
from tests.exporting.converted import functions_read_once  # noqa: F401
from tests.latency.tables import SPACE, archs
from tests.small_spaces import Square, ToySpace


def plan_of(inputs: int, steps: tuple[Step, ...], outputs: tuple[str, ...]) -> Plan:
    return Plan((Part("network", (("input", TensorType((inputs,))),), steps, outputs),))


def test_in_a_chain_the_peak_is_that_of_the_largest_step():
    steps = (Step("a", Square(8, 3, 1), ("input",)), Step("b", Square(3, 7, 1), ("a",)))
    assert live_elements(plan_of(8, steps, ("b",))) == 8 + 3


def test_what_waits_for_a_later_step_is_alive():
    steps = (
        Step("a", Square(2, 10, 1), ("input",)),
        Step("b", Square(10, 4, 1), ("a",)),
        Step("c", Square(4, 6, 1), ("b",)),
        Step("d", Square(10, 1, 1), ("a",)),
    )
    # While c computes, a waits for d; while d does, c waits to be returned.
    assert live_elements(plan_of(2, steps, ("c", "d"))) == 10 + 4 + 6
    assert live_elements(plan_of(2, steps[:3], ("a", "c"))) == 10 + 4 + 6
    assert live_elements(plan_of(2, steps[:3], ("c",))) == 10 + 4


def test_many_at_once_are_as_one_by_one_in_chains_and_elsewhere():
    class Branched(ToySpace):
        is_chain = False

    codes = SPACE.encode(archs())
    expected = [4 * live_elements(SPACE.plan(arch)) for arch in archs()]
    for space in (SPACE, Branched()):
        scored = NetworkCosts(space, 4)
        assert scored(codes)[:, scored.names.index("memory")].tolist() == expected


def test_every_cost_of_networks_has_a_column():
    scored = NetworkCosts(SPACE, 2, [lambda slot, block: 1.0])
    assert sorted(scored.names) == sorted(NETWORK_COSTS)
    assert scored(SPACE.encode(archs())).shape == (len(archs()), 1 + len(NETWORK_COSTS))


def test_keys_and_options_are_unique_and_names_can_be_split():
    assert len({cost.key for cost in COSTS.values()}) == len({cost.label for cost in COSTS.values()}) == len(COSTS)
    assert split_name(on_device("latency", "my board on a table")) == ("latency", "my board on a table")
    assert split_name("macs") == ("macs", None)


def test_the_front_is_over_the_first_sum_that_is_bounded():
    assert front_axis(()) == front_axis(("memory",)) == "macs"
    assert front_axis(("memory", "weights", "size")) == "size"


@pytest.mark.parametrize(
    ("block", "live"),
    [
        (Stem(16, 8, 3, 2, "swish", 3), 3 * 256 + 8 * 64),
        # Input, and the expansion before and after the depthwise convolution.
        (MBConv(8, 4, 6, 3, 6, 2, False, "swish"), 4 * 64 + 24 * 64 + 24 * 16),
        (MBConv(8, 4, 4, 3, 1, 1, False, "swish"), 3 * 4 * 64),
        # Without a shortcut the input is gone by then.
        (InvertedResidual(8, 4, 6, 3, 24, 2, 0, "relu"), 24 * 64 + 24 * 16),
        (InvertedResidual(8, 4, 6, 3, 4, 1, 0, "relu"), 4 * 64 + 6 * 64),
        (PoolHead(4, 8, 16, 6, 10, "swish"), 8 * 16 + 48 * 16),
        (ConvBlock(8, 4, 6, 3, 2, "relu", "identity"), 4 * 64 + 6 * 16),
        # Input, what is convolved, and their sum.
        (ConvBlock(8, 4, 4, 3, 1, "relu", "identity"), 3 * 4 * 64),
        (FusedInvertedResidual(8, 4, 6, 3, 24, 2, 0, "relu"), 24 * 16 + 4 * 64),
        (FusedInvertedResidual(8, 4, 60, 3, 24, 2, 0, "relu"), 24 * 16 + 60 * 16),
        # The middle before and after its channels are scaled, beside the input.
        (FusedInvertedResidual(8, 4, 4, 3, 24, 1, 8, "relu"), 4 * 64 + 2 * 24 * 64),
        (FusedInvertedResidual(8, 4, 6, 3, 24, 1, 8, "relu"), 2 * 24 * 64),
        (UniversalInvertedResidual(8, 4, 6, 24, 2, "relu", 3, 5), 24 * 64 + 24 * 16),
        (UniversalInvertedResidual(8, 4, 6, 24, 2, "relu", 3), 24 * 16 + 6 * 16),
        # Input, what the first convolution made of it, and its expansion.
        (UniversalInvertedResidual(8, 4, 4, 24, 1, "relu", 3), 2 * 4 * 64 + 24 * 64),
        (UniversalInvertedResidual(8, 4, 4, 24, 1, "relu", 0, 3), 4 * 64 + 2 * 24 * 64),
    ],
)
def test_live_activations_of_blocks_by_hand(block, live):
    assert block.live == live


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_blocks_hold_at_least_what_their_modules_make(name):
    for block in list(load_space(name, 10).distinct_blocks().values())[::40]:
        assert block.live >= largest_convolution(block) > 0


class Watched(TorchFunctionMode):
    """Notes how many elements each convolution takes and gives."""

    def __init__(self):
        super().__init__()
        self.elements = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if function is torch.nn.functional.conv2d:
            self.elements.append(args[0].numel() + output.numel())
        return output


def largest_convolution(block: Block) -> int:
    """Most elements that a convolution of the block's module takes and gives."""
    module = StaticBlock(block).eval()
    with torch.no_grad(), Watched() as watched:
        module(*(torch.zeros(1, *tensor.shape) for tensor in block.inputs))
    return max(watched.elements)


@pytest.mark.slow
def test_sizes_of_files_are_estimated_from_above():
    space, cost = load_space("digits", 10), NetworkCosts(load_space("digits", 10), 4).slot_costs["size"]
    for arch in (space.smallest(), space.largest()):
        network = Network(space.plan(arch))
        randomise_norms(network)
        bytes_of_file = len(to_onnx(network))
        estimate = sum(cost(slot, block) for slot in space.slots if (block := space.block_at(slot, arch)))
        assert bytes_of_file <= estimate <= 1.06 * bytes_of_file
