"""Growth: larger networks begin as the smaller ones inside them that were trained, and so need few steps of their own.

Networks that compute the same with more channels, taps and blocks are Net2Net's (Chen et al. 2016, sections 2.3 and
2.4), which copies what is there; here what is new is not read by what is there, and so may be whatever it is.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn

from nasdeploy.blocks.inverted_residual import InvertedResidual
from nasdeploy.core.errors import UserError
from nasdeploy.core.plan import Block
from nasdeploy.core.space import SearchSpace, Sharing
from nasdeploy.nn import FAMILIES
from nasdeploy.nn.functional import each_tensor
from nasdeploy.nn.inverted_residual import InvertedResidualWeights
from nasdeploy.supernet.supernet import Supernet


def grow(supernet: Supernet, trained: Mapping[str, Iterable[Block]]) -> None:
    """Let each network compute what the largest one inside it does whose blocks are `trained`, given by slot.

    In place: weights by which channels of trained blocks read others become zero, so do the taps around trained ones;
    a block in a slot without trained ones adds nothing to its shortcut; a convolution in a shortcut that trained blocks
    do without hands on the leading channels. So it is in training mode, for images of one resolution, and not where a
    block has another computation and not only more of it: an expansion, or a shortcut that is the input as it is, which
    the trained block lacks. Every new weight has a gradient as soon as those that read it are not zero any more. What
    is trained is not changed. Where nothing is trained, nothing happens.
    """
    if not trained:
        return
    with torch.no_grad():
        for slot, weights in supernet.weights.items():
            blocks = list(trained.get(slot, ()))
            if blocks:
                _part(weights, blocks)
            else:
                _silence(weights)


def require_growing(space: SearchSpace) -> None:
    """Raise `UserError` for a space whose networks cannot grow, because smaller kernels are computed from larger
    ones."""
    if any(type(slot.sharing) is not Sharing for slot in space.slots):
        raise UserError(
            f"train.grow: in space {space.name} smaller kernels are computed from larger ones, which so cannot grow; "
            "leave it out"
        )


def _part(weights: nn.Module, blocks: Collection[Block]) -> None:
    """Have the trained channels of a slot read nothing but each other."""
    for weight, used in zip(weights.parameters(), _used(weights, blocks), strict=True):
        if weight.ndim > 1:
            reads = used.flatten(1).any(1).view(-1, *[1] * (weight.ndim - 1))
            weight.masked_fill_(reads & ~used, 0.0)
    if isinstance(weights, InvertedResidualWeights) and weights.shortcut is not None:
        projecting = [block for block in blocks if isinstance(block, InvertedResidual) and block.projects_shortcut]
        if not projecting:
            nn.init.dirac_(weights.shortcut.weight)


def _used(weights: nn.Module, blocks: Iterable[Block]) -> Iterator[Tensor]:
    """Yield, for each parameter, where the blocks have a part in it."""
    marks = deepcopy(weights)
    for mark in marks.parameters():
        mark.zero_()
    for block in blocks:
        each_tensor(lambda part: part.fill_(1.0), FAMILIES[type(block)].slice(marks, block))
    return (mark > 0 for mark in marks.parameters())


def _silence(weights: nn.Module) -> None:
    """Have blocks add nothing to their shortcut: in every family the last normalisation is that of what they add."""
    norms = [module for module in weights.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms[-1:]:
        nn.init.zeros_(norm.weight)
        nn.init.zeros_(norm.bias)
