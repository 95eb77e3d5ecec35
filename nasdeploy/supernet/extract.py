"""Taking a sub-network out of a supernet, as a static network with weights of its own."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from nasdeploy.core.arch import Arch
from nasdeploy.nn import FAMILIES
from nasdeploy.nn.network import Network
from nasdeploy.supernet.supernet import Supernet


def extract(supernet: Supernet, arch: Arch) -> Network:
    """The sub-network `arch` with copies of its weights; no retraining is needed.

    In training mode it equals `supernet(x, arch)` bit for bit, gradients included, for images at its resolution. Its
    running statistics are slices of the supernet's: call `calibrate` before evaluating it.
    """
    plan, first = supernet.space.plan(arch), next(supernet.parameters())
    with torch.device("meta"):
        network = Network(plan)
    if first.dtype != torch.get_default_dtype():
        network.to(first.dtype)
    network.to_empty(device=first.device)
    with torch.no_grad():
        for step in plan.steps:
            family = FAMILIES[type(step.block)]
            source = family.slice(supernet.weights[step.name], step.block)
            target = family.slice(network.block(step.name).weights, step.block)
            for to, tensor in zip(_tensors(target), _tensors(source), strict=True):
                to.copy_(tensor)
        for norm in network.modules():
            # Nothing reads it, but whoever saves the network would save whatever the memory held.
            if isinstance(norm, nn.BatchNorm2d) and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.zero_()
    return network.train(supernet.training)


def _tensors(nested: Any) -> Iterator[Tensor]:
    """The tensors of nested tuples, in order; None is left out."""
    if isinstance(nested, Tensor):
        yield nested
    elif nested is not None:
        for item in nested:
            yield from _tensors(item)
