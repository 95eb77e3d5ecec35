"""Gradients in a supernet, computed from those in an extracted network through nothing but the slices."""

import torch
from torch import Tensor

from nasdeploy.core.arch import Arch
from nasdeploy.nn import FAMILIES
from nasdeploy.nn.network import Network
from nasdeploy.supernet.supernet import Supernet


def pulled_back(holder: Supernet, network: Network, arch: Arch) -> list[Tensor | None]:
    """The gradients of the supernet's parameters, in their order, of which `holder` has a copy."""
    holder.zero_grad()
    for step in holder.space.plan(arch):
        family = FAMILIES[type(step.block)]
        tensors = flat(family.slice(holder.weights[step.slot], step.block))
        own = flat(family.slice(network.block(step.name).weights, step.block))
        learned = [(tensor, leaf.grad) for tensor, leaf in zip(tensors, own, strict=True) if tensor.requires_grad]
        torch.autograd.backward([tensor for tensor, _ in learned], [grad for _, grad in learned])
    return [parameter.grad for parameter in holder.parameters()]


def flat(nested: object) -> list[Tensor]:
    """The tensors of nested tuples, in order."""
    if nested is None or isinstance(nested, Tensor):
        return [] if nested is None else [nested]
    assert isinstance(nested, tuple)
    return [tensor for item in nested for tensor in flat(item)]


def randomise_transforms(supernet: Supernet) -> None:
    """Random matrices between kernels: fresh ones are identities, which hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in supernet.named_parameters():
            if ".transforms." in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) / 4)
