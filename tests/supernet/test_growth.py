"""Growth: whatever smaller networks learned, larger ones begin with it."""

from collections import defaultdict

import pytest
import torch
from torch import Tensor

from nasdeploy.core.arch import Arch
from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import Block
from nasdeploy.core.space import RESOLUTION, SearchSpace
from nasdeploy.spaces import SPACES, load_settings
from nasdeploy.supernet.growth import grow, require_growing
from nasdeploy.supernet.supernet import Supernet, extract
from tests.nn.reference import randomise
from tests.small_spaces import grown, ofa, two_stages

TABLES = sorted(name for name in SPACES if load_settings(name).kind == "table")
"""The registered spaces whose networks can grow."""


def supernet_of(space: SearchSpace) -> Supernet:
    torch.manual_seed(0)
    supernet = Supernet(space)
    randomise(supernet)
    return supernet


def blocks_of(space: SearchSpace, *archs: Arch) -> dict[str, set[Block]]:
    found: defaultdict[str, set[Block]] = defaultdict(set)
    for step in (step for arch in archs for step in space.plan(arch)):
        found[step.slot].add(step.block)
    return found


def computed(supernet: Supernet, arch: Arch) -> Tensor:
    """What a network computes from the same images in training mode."""
    network = extract(supernet, arch)
    side = network.plan.only.inputs[0][1].shape[-1]
    images = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (output,) = network.run(network.plan.only.name, images)
    return output


def larger(space: SearchSpace, small: Arch) -> dict[str, Arch]:
    """The largest network of the same resolution, and that with all inner choices at their largest.

    Blocks that do not expand have another computation, not fewer channels of one.
    """
    largest, inner = space.largest().to_json(), ("depth", "kernel_size", "expand_ratio", "middle")
    same = {name: value for name, value in small.items() if name == RESOLUTION or (value == 1 and "expand" in name)}
    inside = {name: value for name, value in largest.items() if name.partition(".")[0] in inner}
    return {"largest": space.arch({**largest, **same}), "inner": space.arch({**small.to_json(), **inside, **same})}


@pytest.mark.parametrize("name", [*TABLES, "grown"])
def test_larger_networks_begin_as_the_trained_one_inside_them(name: str) -> None:
    space = grown() if name == "grown" else load_settings(name).build(10)
    supernet, small = supernet_of(space), space.smallest()
    before = computed(supernet, small)
    beginning = {kind: computed(supernet, arch) for kind, arch in larger(space, small).items()}
    grow(supernet, blocks_of(space, small))
    assert torch.equal(computed(supernet, small), before)
    for kind, arch in larger(space, small).items():
        assert not torch.allclose(beginning[kind], before, atol=1e-2)
        torch.testing.assert_close(computed(supernet, arch), before, rtol=1e-4, atol=1e-4)


def test_what_several_networks_have_is_kept() -> None:
    space = two_stages()
    supernet, archs = supernet_of(space), [space.smallest(), space.arch({**space.largest().to_json(), "depth.1": 2})]
    before = [computed(supernet, arch) for arch in archs]
    state = {name: value.clone() for name, value in supernet.state_dict().items()}
    grow(supernet, blocks_of(space, *archs))
    for arch, expected in zip(archs, before, strict=True):
        assert torch.equal(computed(supernet, arch), expected)
    assert any(not torch.equal(value, state[name]) for name, value in supernet.state_dict().items())
    grow(supernet, blocks_of(space, space.largest()))
    assert torch.equal(computed(supernet, archs[1]), before[1])


def test_what_is_new_learns() -> None:
    space = load_settings("digits").build(10)
    supernet = supernet_of(space)
    grow(supernet, blocks_of(space, space.smallest()))
    largest, fresh = space.largest(), {}
    for _ in range(4):
        network = supernet.bind(largest)
        side = space.plan(largest).only.inputs[0][1].shape[-1]
        (output,) = network.run(space.plan(largest).only.name, torch.randn(4, 3, side, side))
        output.square().sum().backward()
        with torch.no_grad():
            for name, weight in supernet.named_parameters():
                if weight.grad is None:
                    # The largest network has the same number of channels before and after.
                    assert name == "weights.stage1_block1.shortcut.weight"
                    continue
                # A hidden unit that is never active has no gradient.
                learns = weight.grad.flatten(1).any(1) if weight.ndim > 1 else weight.grad != 0
                fresh[name] = float(learns.float().mean()) > 0.5
                weight.add_(weight.grad, alpha=-1e-3)
                weight.grad = None
    assert all(fresh.values()), [name for name, found in fresh.items() if not found]


def test_nothing_trained_changes_nothing() -> None:
    supernet = supernet_of(two_stages())
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    grow(supernet, {})
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())


def test_networks_whose_smaller_kernels_are_computed_do_not_grow() -> None:
    require_growing(two_stages())
    with pytest.raises(UserError, match=r"train\.grow: in space .* smaller kernels are computed from larger ones"):
        require_growing(ofa())
