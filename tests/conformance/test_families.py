"""What every block family has to keep that says which channels may be sorted, and every block that can be cut.

The runtimes' conformance holds that families compute what they should; their blocks are those here.
"""

from collections.abc import Iterator

import pytest
import torch

import nasdeploy.blocks
from nasdeploy.core.space import Sharing
from nasdeploy.latency.profile import randomise_norms
from nasdeploy.nn import FAMILIES
from nasdeploy.nn.network import StaticBlock
from nasdeploy.spaces.grown import Growable
from tests.conformance.test_runtimes_on_blocks import BLOCKS, drawn
from tests.families.families import registered

ANY = 1 << 16
GROWABLE = {
    name: block
    for name, block in BLOCKS.items()
    if isinstance(block, Growable) and type(block) in nasdeploy.blocks.BLOCKS.values()
}
"""The blocks of grown spaces out of which smaller ones can be cut."""
CUT = {name: block for name, block in GROWABLE.items() if block.cut(ANY, 50) != block}
"""Those that become narrower."""


@pytest.fixture(autouse=True)
def writer_families() -> Iterator[None]:
    with registered():
        yield


def made(name):
    """A block with random weights and statistics, and inputs for it."""
    torch.manual_seed(0)
    block = BLOCKS[name]
    module = StaticBlock(block)
    randomise_norms(module)
    generator = torch.Generator().manual_seed(1)
    return module, [drawn(tensor, 4, generator) for tensor in block.inputs]


def outputs(module, inputs):
    """By batch statistics and by running ones."""
    with torch.no_grad():
        return [module.train(mode)(*inputs) for mode in (True, False)]


@pytest.mark.parametrize("name", BLOCKS)
def test_channels_that_may_be_sorted_may_stand_in_any_order(name):
    module, inputs = made(name)
    before = outputs(module, inputs)
    middles = FAMILIES[type(module.block)].middles(module.weights)
    with torch.no_grad():
        for middle in middles:
            channels = middle.projection.shape[1]
            assert {tensor.shape[dimension] for tensor, dimension in middle.tensors} == {channels}
            assert any(tensor is middle.projection and dimension == 1 for tensor, dimension in middle.tensors)
            assert middle.scale is None or len(middle.scale) == channels
            order = middle.order(torch.randperm(channels // middle.width))
            for tensor, dimension in middle.tensors:
                tensor.copy_(tensor.index_select(dimension, order))
    for found, expected in zip(outputs(module, inputs), before, strict=True):
        assert torch.allclose(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", CUT)
def test_blocks_that_become_narrower_have_channels_that_may_be_sorted(name):
    module, _ = made(name)
    assert FAMILIES[type(module.block)].middles(module.weights)


@pytest.mark.parametrize("name", GROWABLE)
def test_a_block_of_all_channels_and_kernels_is_the_whole(name):
    block = GROWABLE[name]
    smaller = block.cut(3, 50)
    assert block.cut(ANY, 100).macs == block.macs
    assert block.cut(ANY, 100).params == block.params
    assert (smaller.inputs, smaller.output) == (block.inputs, block.output)
    assert smaller.macs <= block.macs
    assert smaller.cut(3, 100) == smaller


@pytest.mark.parametrize("name", CUT)
def test_a_narrower_block_computes_what_the_whole_does_without_the_other_channels(name):
    module, inputs = made(name)
    block = module.block.cut(ANY, 50)
    family = FAMILIES[type(block)]
    weights = family.cover([module.block, block], Sharing())
    weights.load_state_dict(module.weights.state_dict())
    with torch.no_grad():
        for middle in family.middles(weights):
            # What reads the other channels reads nothing: the projection's columns and those of a squeeze.
            kept = middle.projection.shape[1] - dropped(module.block, block)
            for tensor, dimension in middle.tensors:
                if dimension == 1:
                    tensor[:, kept:] = 0
    whole, narrow = StaticBlock(module.block, weights), StaticBlock(block, weights)
    for found, expected in zip(outputs(narrow, inputs), outputs(whole, inputs), strict=True):
        assert torch.allclose(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def dropped(whole, narrow):
    """How many channels the narrower block lacks."""
    return whole.mid_channels - narrow.mid_channels
