"""Modules whose weights are not drawn, or drawn in part: everything else about them is PyTorch's."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nasdeploy.nn.drawing import nothing_drawn, rows_repeated


def test_nothing_is_drawn():
    state = torch.get_rng_state()
    with nothing_drawn():
        made = nn.ModuleList([nn.Conv2d(8, 16, 3), nn.Linear(8, 4), nn.Embedding(5, 8), nn.BatchNorm2d(3)])
    assert torch.equal(torch.get_rng_state(), state)
    assert [tuple(each.weight.shape) for each in made] == [(16, 8, 3, 3), (4, 8), (5, 8), (3,)]
    assert torch.equal(made[3].weight, torch.ones(3))


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 200), columns=st.integers(1, 80), kernel=st.sampled_from([1, 3]))
def test_the_first_rows_are_pytorchs_and_the_others_their_copies(rows, columns, kernel):
    torch.manual_seed(0)
    whole = nn.Conv2d(columns, rows, kernel, bias=False).weight
    torch.manual_seed(0)
    with rows_repeated():
        weight = nn.Conv2d(columns, rows, kernel, bias=False).weight
    drawn = -(-4096 // (columns * kernel * kernel))
    assert torch.equal(weight[:drawn], whole[:drawn])
    assert torch.equal(weight[drawn:], weight[: max(rows - drawn, 0)])
    assert weight.requires_grad


@pytest.mark.parametrize("make", [lambda: nn.Linear(512, 2048), lambda: nn.Embedding(2048, 512)])
def test_numbers_are_as_large_as_pytorchs(make):
    with rows_repeated():
        found = make().weight.std().item()
    assert found == pytest.approx(make().weight.std().item(), rel=0.05)


def test_a_generator_is_used():
    numbers = torch.empty(50)
    with rows_repeated():
        nn.init.uniform_(numbers, 0.5, 1.5, generator=torch.Generator().manual_seed(0))
    expected = torch.empty(50).uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(numbers, expected)
