"""The weight-sharing supernet: for each slot the weights that cover every block that may stand there."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nasdeploy.core.arch import Arch
from nasdeploy.core.plan import Block, Plan, Step
from nasdeploy.core.space import SearchSpace, Slot
from nasdeploy.nn import FAMILIES, Forward, TensorsOf, cover, eager, tensors_of
from nasdeploy.nn.drawing import nothing_drawn
from nasdeploy.nn.functional import BATCH, Context, Statistics, tensors_in
from nasdeploy.nn.network import Network, fit_images, run_part


class Supernet(nn.Module):
    """All sub-networks of a space in one set of weights.

    The architecture is an argument of the call, never stored. Batch normalisation always uses the batch's statistics;
    running statistics exist (mean 0, variance 1 unless loaded) but training never updates them.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        self.weights = nn.ModuleDict({slot.name: _cover(space, slot) for slot in space.slots if not slot.shares})

    def bind(
        self,
        arch: Arch,
        drop_rates: Mapping[str, float] | None = None,
        statistics: Statistics = BATCH,
        forward_of: Callable[[Block], Forward] = eager,
    ) -> "SubNetwork":
        """Return what computes the parts of the sub-network `arch` with these weights.

        `drop_rates` gives the drop probability of slots; None regularises nothing. `statistics` are the batch's, of
        this process or of all. `forward_of` gives the computation of a block, which may be compiled.
        """
        return SubNetwork(self.weights, self.space.plan(arch), drop_rates or {}, Context(statistics), forward_of)

    def forward(
        self,
        x: Tensor,
        arch: Arch,
        drop_rates: Mapping[str, float] | None = None,
        statistics: Statistics = BATCH,
        forward_of: Callable[[Block], Forward] = eager,
    ) -> Tensor:
        """Return the output of a sub-network of one part with one input and one output, e.g. logits `[N, classes]`."""
        bound = self.bind(arch, drop_rates, statistics, forward_of)
        (output,) = bound.run(bound.plan.only.name, x)
        return output


@dataclass(frozen=True)
class SubNetwork:
    """A sub-network with the supernet's own weights, so that gradients reach them. It is a `PartRunner`."""

    weights: nn.ModuleDict
    """The supernet's, by slot."""
    plan: Plan
    drop_rates: Mapping[str, float]
    """The drop probability by slot."""
    context: Context
    """What blocks without a drop probability are told."""
    forward_of: Callable[[Block], Forward]
    taken: Mapping[str, TensorsOf] = field(default_factory=dict)
    """The tensors of steps by name, as far as they were sliced before; others are sliced when they are computed."""

    def run(self, part: str, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of a part; square images of another size are rescaled to the part's input."""
        found = self.plan.part(part)
        return run_part(found, fit_images(found, inputs), self._compute)

    def _compute(self, step: Step, inputs: Sequence[Tensor]) -> Tensor:
        tensors = self.taken.get(step.name)
        if tensors is None:
            tensors = tensors_of(self.weights[step.slot], step.block)
        drop = self.drop_rates.get(step.name, 0.0)
        context = Context(self.context.statistics, drop) if drop else self.context
        return self.forward_of(step.block)(tensors, *inputs, context=context)


def input_side(plan: Plan) -> int:
    """Return the side in pixels of the square images that a network of one part takes."""
    return plan.only.inputs[0][1].shape[-1]


def extract(supernet: Supernet, arch: Arch) -> Network:
    """Return the sub-network `arch` with copies of its weights; no retraining is needed.

    In training mode it equals the supernet's bit for bit, gradients included. Its running statistics are slices of the
    supernet's: call `calibrate` before evaluating it. Raises `ValueError` where steps that share a slot's weights are
    so different that no weights of their own shapes serve them all.
    """
    plan, first = supernet.space.plan(arch), next(supernet.parameters())
    with first.device, nothing_drawn():
        network = Network(plan)
    if first.dtype != torch.get_default_dtype():
        network.to(first.dtype)
    with torch.no_grad():
        # What no block computes with would hold whatever the memory held, and be saved with the network.
        for buffer in network.buffers():
            buffer.zero_()
        for step in plan.steps:
            for to, tensor in _copies(supernet, network, step):
                # The matrices of a step that takes a part of them are those of a step that takes the whole.
                if to.ndim == 1 or to.nbytes == to.untyped_storage().nbytes():
                    to.copy_(tensor)
        for step in (step for step in plan.steps if step.slot != step.name):
            if not all(torch.equal(to, tensor) for to, tensor in _copies(supernet, network, step)):
                raise ValueError(f"slot {step.slot}: its weights in a network of its own do not serve {step.name}")
    return network.train(supernet.training)


def _copies(supernet: Supernet, network: Network, step: Step) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of a tensor of the step's block in the network and the same in the supernet."""
    family = FAMILIES[type(step.block)]
    source = family.slice(supernet.weights[step.slot], step.block)
    target = family.slice(network.block(step.name).weights, step.block)
    return zip(tensors_in(target), tensors_in(source), strict=True)


def _cover(space: SearchSpace, slot: Slot) -> nn.Module:
    """Return the weights of a slot for every block that may stand there, and in the slots that share them."""
    sharing = (other for other in space.slots if other.shares and other.weights == slot.name)
    others = [block for other in sharing for block in _blocks(space, other)]
    return cover(slot.name, _blocks(space, slot), others, slot.sharing)


def _blocks(space: SearchSpace, slot: Slot) -> list[Block]:
    return list(dict.fromkeys(block for block in space.blocks_of(slot) if block is not None))
