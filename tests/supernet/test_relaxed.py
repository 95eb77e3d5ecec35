"""The masked supernet with all probability on one architecture must be that architecture."""

import numpy as np
import pytest
import torch

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.space import SearchSpace
from nasdeploy.nn.functional import rescale
from nasdeploy.spaces import load_space
from nasdeploy.supernet.relaxed import RelaxedSupernet
from nasdeploy.supernet.supernet import Supernet, extract
from tests.supernet.test_extract import randomised
from tests.supernet.tiny import tiny_space
from tests.toy import ToySpace


def one_hot(space: SearchSpace, arch: Arch) -> dict[str, torch.Tensor]:
    return {c.name: torch.tensor([float(v == arch[c.name]) for v in c.values]).double() for c in space.choices}


def uniform(space: SearchSpace) -> dict[str, torch.Tensor]:
    return {c.name: torch.full((len(c.values),), 1 / len(c.values)).double() for c in space.choices}


def supernet_of(space: SearchSpace) -> Supernet:
    torch.manual_seed(0)
    supernet = Supernet(space).double()
    randomised(supernet)
    return supernet


@pytest.mark.parametrize(("space", "side", "count"), [(tiny_space(), 9, 40), (load_space("digits", 10), 12, 15)])
def test_with_one_hot_weights_it_is_the_sub_network(space, side, count):
    supernet, rng = supernet_of(space), np.random.default_rng(0)
    images = torch.randn(4, 3, side, side).double()
    for arch in [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(count))]:
        network = extract(supernet, arch).train()
        expected = network(rescale(images, arch["resolution"]))
        found = RelaxedSupernet(supernet, arch["resolution"])(images, one_hot(space, arch))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_gradients_by_all_probabilities_against_finite_differences():
    space = tiny_space()
    relaxed, images = RelaxedSupernet(supernet_of(space), 6), torch.randn(3, 3, 6, 6).double()
    names = [choice.name for choice in space.choices if choice.name != "resolution"]
    inputs = [probabilities.requires_grad_() for probabilities in (uniform(space)[name] for name in names)]

    def loss(*values):
        return relaxed(images, dict(zip(names, values, strict=True))).square().sum()

    assert torch.autograd.gradcheck(loss, inputs, eps=1e-6, atol=1e-4, rtol=1e-4)
    gradients = torch.autograd.grad(loss(*inputs), inputs)
    assert all(gradient.abs().max() > 0 for gradient in gradients)


def test_the_supernet_learns_nothing():
    space = tiny_space()
    supernet = supernet_of(space)
    probabilities = {name: values.requires_grad_() for name, values in uniform(space).items()}
    before = {name: values.clone() for name, values in supernet.state_dict().items()}
    RelaxedSupernet(supernet, 9)(torch.randn(3, 3, 9, 9).double(), probabilities).sum().backward()
    assert all(parameter.grad is None for parameter in supernet.parameters())
    assert all((values == before[name]).all() for name, values in supernet.state_dict().items())


def test_a_space_whose_blocks_cannot_be_masked():
    class Other:
        space = ToySpace()

        def parameters(self):
            return iter([torch.zeros(1)])

    with pytest.raises(UserError, match=r"^strategy differentiable: blocks of space toy cannot be masked \(Square\); "):
        RelaxedSupernet(Other(), 4)
